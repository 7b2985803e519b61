"""Planning by denoising trajectories: Diffuser (Janner 2022), Decision Diffuser (Ajay 2023), CFGRL (Frans 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Memory, Rollout
from dynamics.goal import join_goal, split_goal
from planners.base import Decision, ImaginationSize, LearnedModel, PlanInfo, from_options
from planners.diffusion.guidance import GuidanceTerm, GuidedPlans
from planners.diffusion.noise_schedule import Sampler, SamplerName
from planners.diffusion.plan_scoring import PlanBatch, PlanScorer
from planners.diffusion.trajectory_learner import TrajectoryLearner, window_slots
from planners.diffusion.trajectory_model import Condition, Score
from planners.search.proposals import exploring
from planners.search.receding_horizon import Replanner
from worldmodels.common.host import read, send
from worldmodels.common.options import AtLeast, Between, Count, Fields, MoreThan, checked, inside
from worldmodels.errors import OptionError
from worldmodels.nets.choices import Discrete

DenoisingHook = Callable[[Tensor], None]
"""Is shown every step's estimate of the plans from pure noise, [N * candidates, L, D]."""


@dataclass(frozen=True)
class SamplingConfig:
    """How plans are sampled and chosen. Nothing of it is learned, so any of it can change on a trained run."""

    sampler: Annotated[SamplerName, "dpm: DPM-Solver++"] = "dpm"
    steps: Annotated[Count, "denoising steps of a plan"] = 10
    candidates: Annotated[Count, "plans from pure noise, of which the best is followed"] = 4
    warm_candidates: Annotated[int, AtLeast(0), "further plans, from the rest of the plan before"] = 4
    renoise_fraction: Annotated[
        float, Between(0, 1, "low"), "of the diffusion steps that the rest of a plan goes through again"
    ] = 0.5
    replan_every: Annotated[Count, "steps of a plan that are executed"] = 4
    min_goal_step: Annotated[
        Count, "steps of the shortest plan to a goal; candidates are spread evenly from there to the whole plan"
    ] = 4
    noise_std: Annotated[
        float, MoreThan(0), "exploring: deviation of the noise; Discrete actions: share of uniform ones"
    ] = 0.1


class Diffusion(Replanner):
    """Samples trajectories that begin in the present latent, scores them, follows the best.

    Memory beside :class:`~planners.search.receding_horizon.Replanner`'s: ``latents`` [N, L, F] of the plan that is
    followed, ``end`` the step of it at which the goal is reached, ``planned`` whether there is one.
    """

    trained_with = ("plan_horizon", "learner.goal_share", "learner.gamma", "learner.trajectories.schedule")
    without_warm_start = "acting.warm_candidates=0"

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        learner: Annotated[Callable[..., TrajectoryLearner], "what learns trajectories"],
        plan_horizon: Annotated[Count, "steps of a trajectory"],
        acting: Annotated[Mapping[str, Any], Fields(SamplingConfig), "how plans are sampled and chosen"],
        scorer: Annotated[PlanScorer, "says which plan is the best"],
        guidance: Annotated[Mapping[str, GuidanceTerm] | None, "gradients that move plans"] = None,
    ) -> None:
        with inside("acting"):
            how = from_options(SamplingConfig, acting)
            family = exploring(action_dim, discrete, how.noise_std)
        learner = learner(action_dim=action_dim, discrete=discrete)
        warm_start = how.warm_candidates > 0
        with inside("acting"):
            super().__init__(action_dim, discrete, family, plan_horizon, learner.gamma, how.replan_every, warm_start)
        self.learner, self.acting, self.scorer, self.guidance = learner, how, scorer, dict(guidance or {})
        scorer.check(learner)
        for name, reads_steps in (("inverse", learner.inverse_model), ("forward_model", learner.forward_model)):
            if reads_steps is not None and plan_horizon == 1:
                raise OptionError("plan_horizon", 1, f"must be at least 2: learner.{name} reads pairs of latents")
        both = self.guidance.keys() & learner.labels.keys()
        if both:
            raise OptionError("guidance", ", ".join(sorted(both)), "is a label's name too: rename one")
        for name in self.terms({}):
            with inside(f"guidance.{name}"):
                self.guidance[name].check(learner)
        with inside("acting"):
            self.sampler = Sampler(learner.trajectories.schedule, how.sampler, how.steps)

    @property
    @override
    def trainable(self) -> TrajectoryLearner:
        return self.learner

    @property
    @override
    def imagination_size(self) -> ImaginationSize:
        return ImaginationSize(self.acting.candidates + self.acting.warm_candidates, self.plan_horizon)

    def terms(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return gradients in use and their weights. ``weights`` go before their own."""
        all_of_them = {name: weights.get(name, term.weight) for name, term in self.guidance.items()}
        return {name: weight for name, weight in all_of_them.items() if weight != 0}

    @property
    @override
    def min_window(self) -> int:
        return self.plan_horizon + 1

    @property
    @override
    def reads_later(self) -> bool:
        return self.learner.reads_later

    def cold_start_fraction(self, length: int) -> float:
        """Return one in as many trajectories as a window holds, at one in as many offsets."""
        count, offsets = window_slots(length, self.plan_horizon, self.learner.every_offset)
        return 1 / (count * offsets)

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse windows that do not hold a whole trajectory, and where its last action led."""
        if length < self.min_window:
            raise OptionError(
                "plan_horizon", self.plan_horizon, f"must be less than data.length={length}, the windows it learns from"
            )

    @override
    def loss(self, model: LearnedModel, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.learner.loss(model, rollout, batch, self.plan_horizon)

    @override
    def after_step(self) -> None:
        self.learner.after_step()

    host_keys = (*Replanner.host_keys, "planned")

    @override
    def initial(self, n: int) -> Memory:
        latents = torch.zeros(n, self.plan_horizon, self.learner.trajectories.feat_dim)
        return super().initial(n) | {
            "latents": latents,
            "end": torch.zeros(n, dtype=torch.int64),
            "planned": torch.zeros(n, dtype=torch.bool, device="cpu"),
        }

    def shift_plan(self, memory: Memory) -> Memory:
        """Move the plan up a step, repeating its last latent. ``end`` counts down, and begins anew once reached."""
        latents = torch.cat([memory["latents"][:, 1:], memory["latents"][:, -1:]], dim=1)
        end = torch.where(memory["end"] > 1, memory["end"] - 1, max(1, self.plan_horizon - 1))
        return super().shift_plan(memory) | {"latents": latents, "end": end}

    def search(self, decision: Decision, memory: Memory) -> Memory:
        """Sample, score, and take the best. Exploring adds noise to its actions."""
        plans, noise = self.sample_plans(decision, memory)
        latents, mean, end = plans.best()
        actions = self.family.mode(mean)
        if decision.explore:
            actions = self.family.draw(actions, torch.full_like(mean, self.acting.noise_std), noise)
        planned = torch.ones_like(memory["planned"])
        return memory | {"mean": mean, "actions": actions, "latents": latents, "end": end, "planned": planned}

    def _inspect(self, decision: Decision, memory: Memory) -> PlanInfo:
        """Return the plan that is followed, beside all that are sampled from the same state."""
        plans, _ = self.sample_plans(decision, memory)
        plan = self.current_plan(memory, self.family.mode(plans.best()[1]))
        return PlanInfo(plan, plans.actions, plans.values)

    @torch.no_grad()
    def sample_plans(
        self,
        decision: Decision,
        memory: Memory,
        hook: DenoisingHook | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> tuple[PlanBatch, Float[Tensor, "N L A"]]:
        """Return scored plans, from pure noise and from the rest of the plan before, and noise to explore with.

        ``weights`` of labels and gradients go before their own, by name.
        """
        fresh, kept, weights = self.acting.candidates, self.acting.warm_candidates, weights or {}
        noise = decision.streams.normal(self.plan_horizon, self.action_dim)
        ends = self._spread_ends(fresh, decision.device).expand(len(noise), -1)
        planned = send(memory["planned"], decision.device)
        if not kept:  # else those go on to where the plan before was to end
            going_on = torch.where(planned, memory["end"], ends[:, 0])
            ends = torch.cat([going_on[:, None], ends[:, 1:]], dim=1)
        x = self._sample(decision, ends, weights, hook=hook)
        if kept and any(read(memory["planned"])):
            begin = self.learner.concat(memory["latents"], memory["mean"]).repeat_interleave(kept, dim=0)
            again = memory["end"][:, None].expand(-1, kept)  # drawn last: whether they are depends on other rows
            x = torch.cat([x, self._sample(decision, again, weights, begin)], dim=1)
            ends = torch.cat([ends, again], dim=1)
        latents, actions = x[..., : self.learner.trajectories.feat_dim], self.learner.actions(x)
        plans = PlanBatch(decision.state, latents, actions, ends)
        executed = replace(plans, actions=self.family.mode(actions))
        values = self.scorer.values(decision.model, self.learner, executed, decision.generator, self.shaped)
        values = decision.require_finite(values)
        again = torch.where(planned[:, None], values[:, fresh:], -torch.inf)
        values = torch.cat([values[:, :fresh], again], dim=1)
        return replace(plans, values=values), noise

    def _sample(
        self,
        decision: Decision,
        ends: Int64[Tensor, "N K"],
        weights: Mapping[str, float],
        begin: Float[Tensor, "M L D"] | None = None,
        hook: DenoisingHook | None = None,
    ) -> Float[Tensor, "N K L D"]:
        """Sample K trajectories a row from its latent, ending in its goal where it has one.

        They begin from noise, or from ``begin``.
        """
        learner, count = self.learner, ends.shape[1]
        latent, goal = split_goal(decision.state.feat.repeat_interleave(count, dim=0), learner.goal_dim)
        steps = torch.arange(self.plan_horizon, device=latent.device)
        given = (steps == 0).expand(len(latent), -1)
        known = latent[:, None].expand(-1, self.plan_horizon, -1)
        if goal is not None and learner.goal_share > 0:  # else it was never given while learning
            at_end = steps == ends.flatten()[:, None]
            known = torch.where(at_end[..., None], goal[:, None], known)
            given = given | at_end
        x = learner.sampled.sample(
            known,
            given,
            self._conditions(len(latent), goal, weights),
            self.sampler,
            decision.streams,
            self._score(decision.model, goal, weights),
            begin,
            1.0 if begin is None else self.acting.renoise_fraction,
            hook,
        )
        return x.unflatten(0, (-1, count))

    def _conditions(self, rows: int, goal: Tensor | None, weights: Mapping[str, float]) -> dict[str, Condition]:
        """Return the condition of every label that plans are to have."""
        labels = self.learner.labels
        targets = {name: label.encode_target(rows, goal) for name, label in labels.items()}
        return {
            name: Condition(value, weights.get(name, labels[name].weight))
            for name, value in targets.items()
            if value is not None
        }

    def _score(
        self, model: LearnedModel, goal: Float[Tensor, "M G"] | None, weights: Mapping[str, float]
    ) -> Score | None:
        """The weighted sum of all gradients in use, of trajectories."""
        terms, learner = self.terms(weights), self.learner
        if not terms:
            return None

        def score(x: Float[Tensor, "M L D"]) -> Float[Tensor, " M"]:
            feat, action = join_goal(x[..., : learner.trajectories.feat_dim], goal), learner.actions(x)
            plans = GuidedPlans(model, learner, feat, action)
            total = 0.0
            for name, weight in terms.items():
                with inside(f"guidance.{name}"):
                    total = total + weight * self.guidance[name].score(plans)
            return total

        return score

    def _spread_ends(self, count: int, device: torch.device) -> Int64[Tensor, " K"]:
        """Steps at which candidates are to reach the goal: evenly from the first allowed to the last."""
        last = self.plan_horizon - 1
        first = min(self.acting.min_goal_step, last)
        return torch.linspace(last, first, count, device=device).round().long().clamp(min=1)
