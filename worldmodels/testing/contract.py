"""The contract of `dynamics/base.py` as tests: every file in configs/dynamics is held to it without a line of its own.

Comparisons are in fp32 with ``sample=False`` and random weights everywhere: what starts at zero ties with anything.
States are compared by what is imagined from them, because their memory is private to the backbone.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dynamics.base import Dynamics
from worldmodels.testing.isolation import Isolation
from worldmodels.testing.learning import Learning
from worldmodels.testing.paths import Paths
from worldmodels.testing.sequences import ACTION, EMBED, randomize


class DynamicsContract(Paths, Isolation, Learning):
    """Inherit in a test module and say in :meth:`build` how your backbone is made."""

    def build(self, embed_dim: int, action_dim: int) -> Dynamics:
        """A small, freshly initialised backbone."""
        raise NotImplementedError

    @pytest.fixture
    def make(self) -> Callable[..., Dynamics]:
        """Builds from a seed."""

        def seeded(seed: int = 0) -> Dynamics:
            torch.manual_seed(seed)
            return self.build(EMBED, ACTION)

        return seeded

    @pytest.fixture
    def dynamics(self, make: Callable[..., Dynamics]) -> Dynamics:
        """With random weights everywhere, and latents at their mode."""
        dynamics = randomize(make())
        dynamics.sample = False
        return dynamics
