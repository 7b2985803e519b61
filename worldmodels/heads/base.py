"""The contract of heads: scalars read off features, in imagination and in training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from dynamics.base import Rollout
from worldmodels.common.options import AtLeast, Count

Units = Annotated[Count, "units of a hidden layer"]
Layers = Annotated[int, AtLeast(0), "hidden layers"]
NumBins = Annotated[int, AtLeast(2), "bins of the two-hot distribution"]


class Head(nn.Module, ABC):
    """One scalar a step, built with ``feat_dim`` and ``action_dim``. A head alone knows which rows it reads.

    Its key under ``heads:`` names its loss. A trajectory holds it under that name in ``extra``, but for the two heads
    that every planner reads, ``reward`` and ``cont``.
    """

    trains_latent: bool = True
    """False: its loss reads a detached rollout, and what it learns is clipped apart from all else."""
    ends: bool = True
    """False: it takes it that no state ends an episode for good."""
    largest: float = math.inf
    """Size beyond which targets all look the same to it."""

    @abstractmethod
    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Read H steps off H + 1 states and the actions between them."""

    @abstractmethod
    def loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T"]:
        """Return the loss of every row, unreduced. Invalid rows weigh 0. ``batch["reset"]`` says where time breaks."""
