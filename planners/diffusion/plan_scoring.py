"""Scores of denoised plans: imagined as a whole, or trusted as far as each of their steps can be."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from dynamics.base import State
from dynamics.goal import split_goal
from planners.base import LearnedModel, Shaping
from worldmodels.common.options import AtLeast, checked
from worldmodels.errors import OptionError
from worldmodels.model import Trajectory

if TYPE_CHECKING:
    from planners.diffusion.trajectory_learner import TrajectoryLearner


@dataclass(frozen=True)
class PlanBatch:
    """K plans for each of N rows."""

    state: State
    """States they begin in, N rows."""
    latents: Float[Tensor, "N K L F"]
    actions: Float[Tensor, "N K L A"]
    ends: Int64[Tensor, "N K"]
    """The step at which the goal is to be reached, where there is one."""
    values: Float[Tensor, "N K"] | None = None
    """Scores, once there are any."""

    def before_end(self, goals: bool) -> Bool[Tensor, "N K L1"]:
        """Mark steps 1, 2, … that lie before the goal. All of them where there is none."""
        steps = torch.arange(1, self.latents.shape[2], device=self.ends.device)
        return (steps < self.ends[..., None]) | (not goals)

    def best(self) -> tuple[Float[Tensor, "N L F"], Float[Tensor, "N L A"], Int64[Tensor, " N"]]:
        """Return latents, actions and end of each row's plan of the highest value."""
        rows, best = torch.arange(len(self.values), device=self.values.device), self.values.argmax(1)
        return self.latents[rows, best], self.actions[rows, best], self.ends[rows, best]


def unshaped(trajectory: Trajectory) -> Trajectory:
    """Return a future as the heads read it."""
    return trajectory


class PlanScorer(ABC):
    """Says what plans are worth."""

    @checked
    def __init__(
        self,
        consistency_weight: Annotated[
            float, AtLeast(0), "what a plan loses for latents that do not follow from its actions, in units of return"
        ] = 1.0,
    ) -> None:
        self.consistency_weight = consistency_weight

    def check(self, learner: TrajectoryLearner) -> None:
        """Refuse a learner that lacks what it reads."""
        if self.consistency_weight and not learner.trajectories.latents:
            reason = "needs latents to compare: set learner.trajectories.latents=true"
            raise OptionError("scorer.consistency_weight", self.consistency_weight, reason)

    @abstractmethod
    def values(
        self,
        model: LearnedModel,
        learner: TrajectoryLearner,
        plans: PlanBatch,
        generator: Generator | None,
        shaped: Shaping = unshaped,
    ) -> Float[Tensor, "N K"]:
        """Return a score of each plan. Higher is better."""


class ImaginedReturn(PlanScorer):
    """Score of a plan whose actions the world model imagines from first to last, while it can still foresee them.

    The return, with the critic's value of where it ends where the learner has a critic, less ``consistency_weight``
    times the mean squared deviation of the imagined latents from the plan's. What happens follows from the actions
    alone: latents that were drawn badly change none of it.
    """

    def values(
        self,
        model: LearnedModel,
        learner: TrajectoryLearner,
        plans: PlanBatch,
        generator: Generator | None,
        shaped: Shaping = unshaped,
    ) -> Float[Tensor, "N K"]:
        """Imagined return, less what the plan got wrong on the way."""
        count, length = plans.latents.shape[1:3]
        forked = model.dynamics.fork(plans.state, count)
        imagined = shaped(model.imagine(forked, plans.actions.flatten(0, 1), length, generator))
        worth = imagined.discounted_return(learner.gamma, learner.critic).unflatten(0, (-1, count))
        if self.consistency_weight == 0:
            return worth
        predicted = split_goal(imagined.feat, learner.goal_dim)[0][:, 1:-1].unflatten(0, (-1, count))
        away = ((predicted - plans.latents[:, :, 1:]) / learner.trajectories.latent_std()).square().mean(-1)
        on_the_way = plans.before_end(learner.goal_dim > 0)
        return worth - self.consistency_weight * (away * on_the_way).sum(-1) / on_the_way.sum(-1).clamp(min=1)


class StepConsistency(PlanScorer):
    """Score of a plan by one-step predictions of the learner's ``forward_model``, for plans too long to foresee.

    Errors do not add up over the plan, as it will be made anew long before its end. A step's jump is its squared error
    over that on recorded steps. A plan loses ``consistency_weight`` times the mean of its jumps: through a wall, every
    step in the wall is a little off. Rewards are read where a step is foreseen to lead.

    Plans to a goal are worth the logarithm of their discount until they arrive: the sooner, the better. Arriving is a
    step too, its error over that of recorded arrivals, where what is foreseen is a state and what is given a goal. It
    counts alone where it is more than the mean, since a plan that stays where it is arrives by leaping. No reward is
    read: recordings need not show goals as far off as this one.
    """

    def check(self, learner: TrajectoryLearner) -> None:
        """Refuse a learner without latents or ``forward_model``."""
        super().check(learner)
        if not learner.trajectories.latents:
            raise OptionError(
                "learner.trajectories.latents", False, "must be true for StepConsistency, which reads them"
            )
        if learner.forward_model is None:
            raise OptionError("learner.forward_model", None, "must have its units, and be trained, for StepConsistency")
        if learner.gamma == 0:
            raise OptionError("learner.gamma", learner.gamma, "must be above 0 where its logarithm is a price")

    def values(
        self,
        model: LearnedModel,
        learner: TrajectoryLearner,
        plans: PlanBatch,
        generator: Generator | None,
        shaped: Shaping = unshaped,
    ) -> Float[Tensor, "N K"]:
        """Return the discounted return as foreseen, or with goals the discount's logarithm, less jumps."""
        predicted = learner.predict_next(plans.latents, plans.actions)  # [N, K, L, F], after each step
        transition_error = learner.transition_error(predicted[:, :, :-1], plans.latents[:, :, 1:])
        if learner.goal_dim:
            before = (plans.ends - 1)[:, :, None, None].expand(-1, -1, 1, predicted.shape[-1])
            goal = split_goal(plans.state.feat, learner.goal_dim)[1][:, None]
            arriving = learner.arrival_error(predicted.gather(2, before)[:, :, 0], goal)
            mean = ((transition_error * plans.before_end(True)).sum(-1) + arriving) / plans.ends
            return plans.ends * math.log(learner.gamma) - self.consistency_weight * torch.maximum(mean, arriving)
        latents = torch.cat([plans.latents[:, :, :1], predicted], dim=2).flatten(0, 1)
        action = plans.actions.flatten(0, 1)
        reward, cont = (model.heads[name](latents, action) for name in ("reward", "cont"))
        worth = shaped(Trajectory(latents, action, reward, cont)).discounted_return(learner.gamma)
        return worth.unflatten(0, plans.ends.shape) - self.consistency_weight * transition_error.mean(-1)
