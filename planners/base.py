"""The contract every planner keeps: something that chooses actions by consulting a world model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from dynamics.base import Dynamics, Memory, Rollout, State
from worldmodels.common.options import validate
from worldmodels.common.randomness import row_noise
from worldmodels.errors import require

if TYPE_CHECKING:
    from planners.learning.policies import ActionDistribution
    from worldmodels.model import WorldModel


Options = TypeVar("Options")
PREVIEW_STEPS = 15
"""Imagined decisions of a policy that is looked at."""


class ImaginationSize(NamedTuple):
    """What one decision imagines for each environment; zeros where nothing is imagined."""

    rows: int
    """Candidate sequences."""
    steps: int
    """Decisions in each."""


@dataclass(frozen=True)
class PlanInfo:
    """What a planner has in mind for N environments, for people to look at."""

    plan: Float[Tensor, "N H A"]
    """The actions planned from the present state on."""
    candidates: Float[Tensor, "N S H A"] | None = None
    """What it chose from, if it tries sequences."""
    values: Float[Tensor, "N S"] | None = None
    """And what each is worth to it."""


class Planner(nn.Module, ABC):
    """Chooses actions for N environments at once.

    Box actions live in [-1, 1]; discrete actions are one-hot. What survives from one decision to the next (a warm
    start, the rest of a plan) is the ``memory`` argument, so that collecting, evaluating and drawing never touch one
    another's. Every random draw of ``act`` comes from ``generator``.
    """

    reads_state: bool = False
    """True: it needs no model, but the observation's ``state`` (and the goal's) where others get features."""

    trained_with: ClassVar[tuple[str, ...]] = ()
    """Options of its group that what it learned depends on without a shape that tells: they stay as a run has them."""

    def __init__(self, action_dim: int, discrete: bool) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.discrete = discrete

    @property
    def imagination_size(self) -> ImaginationSize:
        """How much a decision imagines for each environment."""
        return ImaginationSize(0, 0)

    @property
    def trainable(self) -> Planner:
        """The part that a checkpoint must hold, where anything is learned."""
        return self

    @property
    def min_window(self) -> int:
        """Rows of one episode that a training window must hold to teach it anything."""
        return 1

    def cold_start_fraction(self, length: int) -> float:
        """Share of the trajectories it learns from that begin in the first of a training window's ``length`` rows."""
        return 0.0

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse a backbone, or training windows of ``length`` rows, that it cannot use: asked before a training."""
        return

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

    def inspect(
        self, model: WorldModel, state: State, memory: Memory, generator: Generator | None = None
    ) -> PlanInfo | None:
        """What it would do from ``state``, leaving everything as it is; None where nothing is imagined.

        ``memory`` is what :meth:`act` returned in that state, or the initial one.
        """
        return None

    def loss(self, model: WorldModel, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the planner's learned parts, unreduced; empty where nothing is learned."""
        return {}

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """What is worth watching beside the losses, by name; means are logged."""
        return {}

    def after_step(self) -> None:
        """Called after every optimiser step, for moving averages."""
        return


class PolicyPlanner(Planner):
    """A planner that learns a policy and acts by it."""

    def initial(self, n: int) -> Memory:
        """A policy remembers nothing."""
        return {}

    @torch.no_grad()
    def act(
        self,
        model: WorldModel,
        state: State,
        memory: Memory,
        reset: Bool[Tensor, " N"],
        explore: bool,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "N A"], Memory]:
        """Draw from the policy or, not exploring, take its mode."""
        noise = row_noise(len(reset), (self.action_dim,), state.feat.device, generator) if explore else None
        return self.policy(state.feat).choose(noise), memory

    @torch.no_grad()
    def inspect(self, model: WorldModel, state: State, memory: Memory, generator: Generator | None = None) -> PlanInfo:
        """The policy's modes, imagined."""
        imagined = model.imagine(state, lambda feat: self.policy(feat).mode(), PREVIEW_STEPS, generator)
        return PlanInfo(imagined.action)

    @abstractmethod
    def policy(self, feat: Float[Tensor, "... F"]) -> ActionDistribution:
        """The distribution over the next action."""


class Learner(PolicyPlanner):
    """A planner that learns a policy and a value: it acts by the policy, and a search may consult both."""

    @abstractmethod
    def value(self, feat: Float[Tensor, "N S F"], noise: Float[Tensor, "N K"]) -> Float[Tensor, "N S"]:
        """Expected discounted return from each of S states a row; ``noise`` is standard normal."""

    def value_noise(self, states: int) -> int:
        """K: how many numbers of ``noise`` a row :meth:`value` needs for so many states."""
        return 0


def from_options(kind: type[Options], options: Mapping[str, Any]) -> Options:
    """Make a dataclass of options from a mapping that was held against its annotations."""
    return kind(**validate(kind, options))


def require_gradients(gradient: str, straight_through: bool, instead: str) -> None:
    """Refuse back-propagation where a model's ``gradient`` is ``none``, or biased and nobody asked for it."""
    require(gradient != "none", f"no gradient leads back through a simulator: use {instead}.")
    require(
        straight_through or gradient == "exact",
        f"no gradient leads back through categorical latents or Discrete actions: use {instead}, train with "
        "latent=gaussian where it is the latents, or accept a biased estimate with planner.straight_through=true.",
    )
