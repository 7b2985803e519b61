"""Seeds derived from seeds, without torch: environment workers import this."""

from __future__ import annotations

import numpy as np

HELD_OUT = 2**16
"""Part of the seed of environments that no training steps; no environment of a training has so high a number."""


def derive_seed(*parts: int) -> int:
    """Mix several numbers into one 32-bit seed, so that neighboring (seed, index) pairs share no stream."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])
