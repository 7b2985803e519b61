"""Contract of objectives, which shape a latent: modules that turn a rollout into named, unreduced losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from dynamics.base import Rollout


@dataclass(frozen=True)
class Context:
    """Everything that an objective may read beside a rollout."""

    model: nn.Module
    """The world model that it is part of."""
    planner: nn.Module | None = None
    """Planner that acts on it. None where a model is looked at alone."""
    updates: Int64[Tensor, ""] = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    """Updates made so far: a tensor, so that a compiled update stays one graph."""


class Objective(nn.Module, ABC):
    """A representation objective, built with ``feat_dim`` and ``observations`` (an ``encoders.ObservationSpec``).

    One that can show what the latent holds sets ``decoder`` to a module from features to observations.
    """

    decoder: nn.Module | None
    trains_latent: bool = True
    """False: it reads a detached rollout, and what it learns is clipped apart from all else."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = None

    @abstractmethod
    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T *E"], batch: dict[str, Tensor], context: Context
    ) -> dict[str, Float[Tensor, "B R"]]:
        """Return named losses, unreduced, of T rows or of those it takes. No other part may name a loss alike."""

    def view(self, batch: dict[str, Tensor], generator: Generator | None = None) -> dict[str, Tensor]:
        """Return the batch as the encoder is to be shown it while training. Losses read the one that was recorded.

        One objective of a model may change the view. ``generator`` draws. None uses the global random stream.
        """
        return batch

    def after_step(self, model: nn.Module) -> None:
        """Follow the newest weights of ``model``, as moving averages do. Called after every optimiser step."""
        return
