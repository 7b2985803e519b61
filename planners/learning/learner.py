"""Planners that learn a policy: what they act by, and what a guided search may consult."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from dynamics.base import Memory
from planners.base import Decision, PlanInfo, Planner
from planners.learning.policies import ActionDistribution
from planners.streams import RowStreams
from worldmodels.common.options import Between
from worldmodels.errors import OptionError, require

PREVIEW_STEPS = 15
"""Imagined decisions of a policy that is inspected."""


class PolicyPlanner(Planner):
    """A planner that learns a policy and acts by it."""

    def initial(self, n: int) -> Memory:
        """Return an empty memory: a policy remembers nothing."""
        return {}

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Draw from the policy or, not exploring, take its mode."""
        noise = decision.streams.normal(self.action_dim) if decision.explore else None
        return self.policy(decision.state.feat).choose(noise), memory

    def _inspect(self, decision: Decision, memory: Memory) -> PlanInfo:
        """Imagine the policy's modes."""
        modes = lambda feat: self.policy(feat).mode()  # noqa: E731
        return PlanInfo(decision.model.imagine(decision.state, modes, PREVIEW_STEPS, decision.generator).action)

    @abstractmethod
    def policy(self, feat: Float[Tensor, "... F"]) -> ActionDistribution:
        """Return the distribution over the next action."""


class Learner(PolicyPlanner):
    """A planner that learns a policy and a value: it acts by the policy, and a search may consult both."""

    @abstractmethod
    def value(self, feat: Float[Tensor, "N S F"], streams: RowStreams) -> Float[Tensor, "N S"]:
        """Return the expected discounted return from each of S states a row.

        ``streams`` draw where drawing is needed.
        """


Gamma = Annotated[float, Between(0, 1), "discount per decision"]
AUTO = "auto"
"""Word for a discount that follows from the length of episodes."""


def require_discount(gamma: float | str) -> None:
    """Refuse a discount that nobody has worked out, as a training does."""
    if gamma == AUTO:
        raise OptionError("gamma", gamma, "follows from the length of episodes, which is not known here: say a number")


def discount_of(decisions: int) -> float:
    """Return the discount of episodes of so many decisions: 1 - 5 / decisions, within [0.95, 0.995] (TD-MPC2)."""
    return min(max(1 - 5 / decisions, 0.95), 0.995)


StraightThrough = Annotated[
    bool, "accept the biased gradient of categorical latents and Discrete actions, where gradients lead through them"
]


def require_gradients(gradient: str, straight_through: bool, instead: str) -> None:
    """Refuse back-propagation where a model's ``gradient`` is ``none``, or biased and nobody asked for it."""
    require(gradient != "none", f"no gradient leads back through a simulator: use {instead}.")
    if not straight_through and gradient != "exact":
        raise OptionError(
            "straight_through",
            straight_through,
            f"leaves no gradient through categorical latents or Discrete actions: use {instead}, train with "
            "latent=gaussian where it is the latents, or accept a biased estimate with true",
        )
