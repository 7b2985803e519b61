"""What shapes a latent: modules that turn a rollout into named, unreduced losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from dynamics.base import Rollout


class Objective(nn.Module, ABC):
    """A representation objective, built with ``feat_dim`` and ``observations`` (an ``encoders.ObservationSpec``).

    One that can show what the latent holds sets ``decoder`` to a module from features to observations.
    """

    decoder: nn.Module | None
    trains_latent: bool = True
    """False: no gradient of it reaches the latent, and what it learns is clipped apart from all else."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = None

    @abstractmethod
    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T E"], batch: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "B T"]]:
        """Named losses, unreduced [B, T]."""
