"""Baselines that need no learning: policies that scores are set beside."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Memory
from planners.base import Decision, Planner
from planners.random import Random
from worldmodels.evaluation.rollout import play_baseline
from worldmodels.factory import build_planner
from worldmodels.nets.choices import Discrete
from worldmodels.runs.loading import Run


class Constant(Planner):
    """Always the same action: what doing nothing, or full throttle, scores."""

    def __init__(self, action_dim: int, discrete: Discrete, value: float) -> None:
        super().__init__(action_dim, discrete)
        self.value = value

    @override
    def initial(self, n: int) -> Memory:
        return {}

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Return the constant, whatever the state."""
        return torch.full((len(decision.state.feat), self.action_dim), self.value), memory


def baseline_policies(run: Run) -> dict[str, Callable[[int, bool], Planner]]:
    """Return policies that look at nothing, by name. Constant actions need actions that form a box."""
    policies: dict[str, Callable[[int, bool], Planner]] = {
        "random": Random,
    }
    if run.cfg.prefill_planner is not None:
        policies["prefill"] = lambda a, d: build_planner(run.cfg.prefill_planner, a, d)
    if not run.discrete:
        for name, value in (("zero", 0.0), ("plus_one", 1.0), ("minus_one", -1.0)):
            policies[name] = lambda a, d, value=value: Constant(a, d, value)
    if run.cfg.env.get("expert"):
        policies["reference"] = lambda a, d: build_planner(run.cfg.env.expert, a, d)
    return policies


def baselines(run: Run, episodes: int, seed: int) -> dict[str, float]:
    """Mean returns of what looks at nothing, on the same seeds."""
    env, max_steps = run.cfg.env, run.cfg.evaluation.max_steps
    return {
        name: statistics.fmean(play_baseline(env, policy, episodes, seed, max_steps))
        for name, policy in baseline_policies(run).items()
    }
