"""What planners share that try many action sequences in imagination and keep the best: MPPI, CEM and their kin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dynamics.base import Memory, State
from planners.base import ImaginationSize, PlanInfo, from_options
from planners.learning.returns import ValueFunction
from planners.search.proposals import CategoricalProposal, GaussianProposal, Proposal
from planners.search.receding_horizon import Replanner
from worldmodels.common.randomness import color_noise, row_noise
from worldmodels.errors import require


@dataclass(frozen=True)
class SearchConfig:
    """How a sampling planner searches; checked where it is made, so that a mistake shows before training."""

    plan_horizon: int
    """Imagined steps of a plan (decisions, not frames)."""
    num_samples: int
    """Action sequences tried for each environment and iteration."""
    num_elites: int
    """How many of the best shape the next iteration."""
    iterations: int
    min_std: float = 0.1
    """Box: floor under the deviation of the search."""
    max_std: float = 1.0
    """Box: deviation at the start of the search."""
    min_prob: float = 0.02
    """Discrete: floor under the probability of each action in the search."""
    gamma: float = 0.99
    """Discount a step."""
    momentum: float = 0.0
    """Share of the previous iteration's distribution that is kept."""
    noise_beta: float = 0.0
    """Exponent of the noise's spectrum along the plan: 0 white, 1 pink, 2 red."""
    replan_every: int = 1
    """Steps of a plan that are executed before the next one is made."""
    warm_start: bool = True
    """Begin from the rest of the previous plan."""

    def __post_init__(self) -> None:
        require(self.iterations >= 1, f"iterations={self.iterations} must be at least 1.")
        require(
            1 <= self.num_elites <= self.num_samples,
            f"num_elites={self.num_elites} must lie between 1 and num_samples={self.num_samples}.",
        )
        require(
            0 < self.min_std <= self.max_std,
            f"min_std={self.min_std} must be positive and at most max_std={self.max_std}.",
        )
        require(0 <= self.momentum < 1, f"momentum={self.momentum} must lie in [0, 1).")
        require(self.noise_beta >= 0, f"noise_beta={self.noise_beta} must not be negative.")


@dataclass(frozen=True)
class SearchResult:
    """Where a search has got to, for N rows: the latest candidates, what they are worth, and the best of them."""

    candidates: Float[Tensor, "N S H A"]
    values: Float[Tensor, "N S"]
    proposal: Proposal
    elites: Float[Tensor, "N E H A"]
    """Best first."""
    weights: Float[Tensor, "N E"]


class SamplingPlanner(Replanner):
    """Propose, imagine, keep the best, propose again; subclasses say how elites count and what is executed.

    ``act(guide=…)`` takes a :class:`planners.search.guided.Guide`, whose policy takes part in the search and whose
    value tells what lies beyond the plan; ``terminal_value`` tells it where there is no guide.
    """

    def __init__(
        self, action_dim: int, discrete: bool, options: Mapping[str, Any], terminal_value: ValueFunction | None = None
    ) -> None:
        settings = from_options(SearchConfig, options)
        require(
            not discrete or 0 < settings.min_prob * action_dim < 1,
            f"min_prob={settings.min_prob} must lie between 0 and 1 / {action_dim}, the number of actions.",
        )
        super().__init__(
            action_dim,
            discrete,
            CategoricalProposal(action_dim, settings.min_prob)
            if discrete
            else GaussianProposal(settings.min_std, settings.max_std),
            settings.plan_horizon,
            settings.gamma,
            settings.replan_every,
            settings.warm_start,
        )
        self.settings, self.terminal_value = settings, terminal_value

    @property
    def imagination_size(self) -> ImaginationSize:
        """All candidates."""
        return ImaginationSize(self.settings.num_samples, self.plan_horizon)

    @abstractmethod
    def weigh(self, values: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """Weights of the elites, summing to 1 a row, given their values, best first; shifts must not matter."""

    @abstractmethod
    def choose(self, found: SearchResult, explore: bool, noise: Float[Tensor, "N E"]) -> Float[Tensor, "N H A"]:
        """Pick what to execute: sequences, or where exploring, means to which the proposal's spread is added."""

    def propose(
        self, i: int, proposal: Proposal, noise: Float[Tensor, "N S H A"], found: SearchResult | None, memory: Memory
    ) -> Float[Tensor, "N S H A"]:
        """Candidates of iteration ``i``, as many as the noise or fewer; ``found`` is None in the first one."""
        return self.family.draw(proposal.mean[:, None], proposal.spread[:, None], noise)

    def remember(self, found: SearchResult) -> Memory:
        """What else the next plan starts from, [N, ..., H, A]; must have the keys of :meth:`initial`."""
        return {}

    def search(
        self, model: Any, state: State, memory: Memory, explore: bool, generator: Generator | None, guide: Any
    ) -> Memory:
        """Search from ``state`` and choose."""
        found, pick, jitter = self.run_search(model, state, memory, generator, guide)
        actions = self.choose(found, explore, pick)
        if explore:
            actions = self.family.draw(actions, found.proposal.spread, jitter)
        return memory | {"mean": found.proposal.mean, "actions": actions, **self.remember(found)}

    def run_search(
        self, model: Any, state: State, memory: Memory, generator: Generator | None, guide: Any = None
    ) -> tuple[SearchResult, Tensor, Tensor]:
        """What a search finds, and the noise [N, E] and [N, H, A] by which of it an action is chosen."""
        settings, n = self.settings, len(memory["mean"])
        numbers = guide.noise(self) if guide else 0
        draws, pick, jitter, spare = self._draw(n, numbers, memory["mean"].device, generator)
        asked = guide.ask(self, model, state, spare, generator) if guide else None
        proposal, found, forked, count = self.family.widen(memory["mean"]), None, state, 0
        for i in range(settings.iterations):
            noise = draws[:, i] if asked is None else draws[:, i, asked.actions.shape[1] :]
            candidates = self.propose(i, proposal, noise, found, memory)
            if asked is not None:
                candidates = torch.cat([candidates, asked.actions], dim=1)
            if candidates.shape[1] != count:
                count = candidates.shape[1]
                forked = model.dynamics.fork(state, count)
            terminal_value = asked.value(i, count) if asked is not None else self.terminal_value
            values = self.imagined_values(model, forked, candidates.flatten(0, 1), terminal_value, generator)
            values = values.unflatten(0, candidates.shape[:2])
            best, index = values.topk(min(settings.num_elites, count), dim=1)
            elites = candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))
            weights = self.weigh(best)
            proposal = proposal.interpolate(self.family.fit(elites, weights), settings.momentum)
            found = SearchResult(candidates, values, proposal, elites, weights)
        return found, pick, jitter

    @torch.no_grad()
    def inspect(
        self, model: Any, state: State, memory: Memory, generator: Generator | None = None, guide: Any = None
    ) -> PlanInfo:
        """The plan that is followed, beside the last iteration of a search from the same state."""
        found, _, _ = self.run_search(model, state, self.search_start(memory), generator, guide)
        plan = self.current_plan(memory, self.family.mode(found.proposal.mean))
        return PlanInfo(plan, found.candidates, found.values)

    def _draw(
        self, n: int, spare: int, device: torch.device, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All noise of one plan, in one draw a row.

        [N, I, S, H, A] for candidates, [N, E] and [N, H, A] for execution, [N, spare] for a guide.
        """
        settings = self.settings
        plan = (self.plan_horizon, self.action_dim)
        steps = plan[0] * plan[1]
        sizes = (settings.iterations * settings.num_samples * steps, settings.num_elites, steps, spare)
        noise = row_noise(n, (sum(sizes),), device, generator)
        candidates, pick, jitter, rest = noise.split(sizes, dim=1)
        shape = (n, settings.iterations, settings.num_samples, *plan)
        return (
            color_noise(candidates.reshape(shape), settings.noise_beta),
            pick,
            color_noise(jitter.reshape(n, *plan), settings.noise_beta),
            rest,
        )
