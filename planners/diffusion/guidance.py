"""Guidance of plans by gradients while they are denoised: rewards on the way, a value at the end, bounds to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from planners.base import LearnedModel
from worldmodels.common.options import AtLeast, checked
from worldmodels.errors import OptionError

if TYPE_CHECKING:
    from planners.diffusion.trajectory_learner import TrajectoryLearner


@dataclass(frozen=True)
class GuidedPlans:
    """M plans as a step of denoising takes them to be, and who can say more of them."""

    model: LearnedModel
    learner: TrajectoryLearner
    feat: Float[Tensor, "M L F"]
    """Whole features, the goal's too."""
    action: Float[Tensor, "M L A"]
    """Action that leads on from each."""


Weight = Annotated[float, "of the term; 0 leaves it out"]


class GuidanceTerm(ABC):
    """One term of a sum whose gradient moves plans (Diffuser, algorithm 1). Nothing of it is learned."""

    @checked
    def __init__(self, weight: Weight = 0.0) -> None:
        self.weight = weight

    def check(self, learner: TrajectoryLearner) -> None:
        """Refuse a learner that lacks what the term reads. Called where the weight is not 0."""
        if not learner.trajectories.latents:
            raise OptionError("weight", self.weight, "reads latents: set learner.trajectories.latents=true")

    @abstractmethod
    def score(self, plans: GuidedPlans) -> Float[Tensor, " M"]:
        """Return how well plans do. Higher is better."""


class RewardGuidance(GuidanceTerm):
    """The reward head's discounted sum over the plan."""

    def score(self, plans: GuidedPlans) -> Float[Tensor, " M"]:
        """Sum rewards over all steps but the first, which is present."""
        reward = plans.model.heads["reward"](plans.feat, plans.action[:, :-1])
        return (plans.learner.gamma ** torch.arange(reward.shape[1], device=reward.device) * reward).sum(1)


class ValueGuidance(GuidanceTerm):
    """The critic's value of the last latent, discounted to the plan's first step."""

    def check(self, learner: TrajectoryLearner) -> None:
        """Refuse a learner without a critic."""
        super().check(learner)
        if learner.critic is None:
            raise OptionError("weight", self.weight, "needs a value: give learner.critic its units, and train it")

    def score(self, plans: GuidedPlans) -> Float[Tensor, " M"]:
        """Return the critic's value of the last state."""
        return plans.learner.gamma ** (plans.feat.shape[1] - 1) * plans.learner.critic(plans.feat[:, -1])


class StateBound(GuidanceTerm):
    """A constraint: one number of the decoded ``state`` is to stay between two bounds all along the plan."""

    @checked
    def __init__(
        self,
        weight: Weight = 0.0,
        number: Annotated[int, AtLeast(0), "which number of the state, counted from 0"] = 0,
        low: Annotated[float | None, "bound in the environment's units; null: none"] = None,
        high: Annotated[float | None, "bound in the environment's units; null: none"] = None,
    ) -> None:
        super().__init__(weight)
        if low is not None and high is not None and low > high:
            raise OptionError("low", low, f"must be at most high={high}")
        self.number, self.low, self.high = number, low, high

    def check(self, learner: TrajectoryLearner) -> None:
        """Refuse a term without a bound."""
        super().check(learner)
        if self.low is None and self.high is None:
            raise OptionError("weight", self.weight, "needs a bound: give low, high or both")

    def score(self, plans: GuidedPlans) -> Float[Tensor, " M"]:
        """Return minus the squared distances to what is allowed."""
        decoded = plans.model.decode(plans.feat)
        if "state" not in decoded or self.number >= decoded["state"].shape[-1]:
            has = decoded["state"].shape[-1] if "state" in decoded else "no"
            raise OptionError(
                "number",
                self.number,
                f"is of the decoded state, of which this model has {has} numbers: train with env.obs=state or both",
            )
        x = decoded["state"][..., self.number]
        return -(x - x.clamp(self.low, self.high)).square().sum(1)
