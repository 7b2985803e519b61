"""The contract every planner keeps: something that chooses actions by consulting a world model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from dynamics.base import Memory, Rollout, State

if TYPE_CHECKING:
    from worldmodels.model import WorldModel


class Planner(nn.Module, ABC):
    """Chooses actions for N environments at once.

    Box actions live in [-1, 1]; discrete actions are one-hot. What survives from one decision to the next (a warm
    start, the rest of a plan) is the ``memory`` argument, so that collecting, evaluating and drawing never touch one
    another's. Every random draw of ``act`` comes from ``generator``.
    """

    def __init__(self, action_dim: int, discrete: bool) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.discrete = discrete

    @abstractmethod
    def initial(self, n: int) -> Memory:
        """Memory before the first decision of ``n`` environments."""

    @abstractmethod
    def act(
        self,
        model: WorldModel,
        state: State,
        memory: Memory,
        reset: Bool[Tensor, " N"],
        explore: bool,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "N A"], Memory]:
        """Choose one action a row; rows under ``reset`` start an episode and forget their memory first."""

    def loss(self, model: WorldModel, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the planner's learned parts, unreduced; empty where nothing is learned."""
        return {}

    def after_step(self) -> None:
        """Called after every optimiser step: moving averages, normalisers."""
        return
