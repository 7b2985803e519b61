"""A global random stream of one's own for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(generator: torch.Generator | None) -> Iterator[None]:
    """Seed the global random stream from ``generator`` for a while, and put it back. None leaves it alone."""
    if generator is None:
        yield
        return
    with torch.random.fork_rng(devices=[generator.device] if generator.device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        yield
