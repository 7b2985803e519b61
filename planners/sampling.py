"""What planners share that try many action sequences in imagination and keep the best: MPPI, CEM and their kin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from dynamics.base import Memory, State, clear_rows
from planners.base import Planner
from planners.noise import colour, row_noise
from planners.proposals import Categorical, Family, Gaussian, Proposal
from planners.returns import Value, discounted_return
from worldmodels.errors import UserError, near_match


def require(met: bool, message: str) -> None:
    """Raise :class:`UserError` unless ``met``."""
    if not met:
        raise UserError(message)


@dataclass(frozen=True)
class Search:
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

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Search:
        """Build from keyword options; an unknown or missing one is a :class:`UserError` that names it."""
        known = [field.name for field in fields(cls)]
        for key in options:
            require(key in known, f"The planner has no option {key!r}.{near_match(key, known)}")
        needed = ("plan_horizon", "num_samples", "num_elites", "iterations")
        for key in needed:
            require(key in options, f"The planner needs the option {key!r}.")
        return cls(**options)

    def __post_init__(self) -> None:
        require(self.plan_horizon >= 1, f"plan_horizon={self.plan_horizon} must be at least 1.")
        require(self.iterations >= 1, f"iterations={self.iterations} must be at least 1.")
        require(
            1 <= self.num_elites <= self.num_samples,
            f"num_elites={self.num_elites} must lie between 1 and num_samples={self.num_samples}.",
        )
        require(
            0 < self.min_std <= self.max_std,
            f"min_std={self.min_std} must be positive and at most max_std={self.max_std}.",
        )
        require(0 <= self.gamma <= 1, f"gamma={self.gamma} must lie in [0, 1].")
        require(0 <= self.momentum < 1, f"momentum={self.momentum} must lie in [0, 1).")
        require(self.noise_beta >= 0, f"noise_beta={self.noise_beta} must not be negative.")
        require(
            1 <= self.replan_every <= self.plan_horizon,
            f"replan_every={self.replan_every} must lie between 1 and plan_horizon={self.plan_horizon}.",
        )
        require(
            not self.warm_start or self.replan_every < self.plan_horizon or self.plan_horizon == 1,
            f"warm_start=true has nothing to start from when replan_every={self.replan_every} executes the whole plan "
            f"(plan_horizon={self.plan_horizon}): shorten replan_every or set warm_start=false.",
        )


@dataclass(frozen=True)
class Found:
    """Where a search has got to, for N rows."""

    proposal: Proposal
    elites: Float[Tensor, "N E H A"]
    """Best first."""
    weights: Float[Tensor, "N E"]


class SamplingPlanner(Planner):
    """Propose, imagine, keep the best, propose again; subclasses say how elites count and what is executed.

    Memory, N rows: ``plan`` [N, H, A], the mean plan whose first action belongs to the latest state, for looking at;
    ``mean`` the same as the proposal's parameters (probabilities if discrete); ``actions`` what is being executed;
    ``age`` steps taken from the current plan, 0 before any. All of them move up by one step at each decision.
    """

    def __init__(
        self, action_dim: int, discrete: bool, options: Mapping[str, Any], terminal_value: Value | None = None
    ) -> None:
        super().__init__(action_dim, discrete)
        self.search = Search.of(options)
        self.terminal_value = terminal_value
        search = self.search
        require(
            not discrete or 0 < search.min_prob * action_dim < 1,
            f"min_prob={search.min_prob} must lie between 0 and 1 / {action_dim}, the number of actions.",
        )
        self.family: Family = (
            Categorical(action_dim, search.min_prob) if discrete else Gaussian(search.min_std, search.max_std)
        )

    @abstractmethod
    def weigh(self, values: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """Weights of the elites, summing to 1 a row, given their values, best first; shifts must not matter."""

    @abstractmethod
    def choose(self, found: Found, explore: bool, noise: Float[Tensor, "N E"]) -> Float[Tensor, "N H A"]:
        """Pick what to execute: sequences, or where exploring, means to which the proposal's spread is added."""

    def propose(self, i: int, proposal: Proposal, noise: Tensor, found: Found | None, memory: Memory) -> Tensor:
        """Candidates [N, S, H, A] of iteration ``i`` from noise of that shape; ``found`` is None in the first one."""
        return self.family.draw(proposal.mean[:, None], proposal.spread[:, None], noise)

    def remember(self, found: Found) -> Memory:
        """What else the next plan starts from, [N, ..., H, A]; must have the keys of :meth:`initial`."""
        return {}

    def initial(self, n: int) -> Memory:
        """No plan yet."""
        plan = torch.full((n, self.search.plan_horizon, self.action_dim), self.family.fill)
        return {
            "plan": self.family.mode(plan),
            "mean": plan,
            "actions": plan,
            "age": torch.zeros(n, dtype=torch.int64),
        }

    @torch.no_grad()
    def act(
        self,
        model: Any,
        state: State,
        memory: Memory,
        reset: Bool[Tensor, " N"],
        explore: bool,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "N A"], Memory]:
        """Go on with the plan, or make a new one in the rows where ``replan_every`` steps of it are used up.

        ``model`` needs ``dynamics.fork``, ``dynamics.select`` and ``imagine``. Raises ``FloatingPointError`` when it
        predicts a value that is not finite.
        """
        device = state.feat.device
        fresh = {key: value.to(device) for key, value in self.initial(len(reset)).items()}
        memory = clear_rows({key: value.to(device) for key, value in memory.items()}, reset, fresh)
        memory = {key: self._moved_up(value) for key, value in memory.items()}
        if self.search.replan_every == 1:
            memory = self._plan(model, state, memory, explore, generator)
        else:
            due = (memory["age"] == 0) | (memory["age"] >= self.search.replan_every)
            rows = due.nonzero().squeeze(1)
            if len(rows) > 0:
                part = {key: value[rows] for key, value in memory.items()}
                part = self._plan(model, model.dynamics.select(state, rows), part, explore, generator)
                memory = {key: value.index_copy(0, rows, part[key]) for key, value in memory.items()}
        memory["plan"] = self.family.mode(memory["mean"])
        memory["age"] = memory["age"] + 1
        return memory["actions"][:, 0], memory

    def _moved_up(self, value: Tensor) -> Tensor:
        """Drop the first step of [N, ..., H, A] and know nothing about a new last one."""
        if value.ndim < 3:
            return value
        return torch.cat([value[..., 1:, :], torch.full_like(value[..., :1, :], self.family.fill)], dim=-2)

    def _plan(self, model: Any, state: State, memory: Memory, explore: bool, generator: Generator | None) -> Memory:
        """Search from ``state``; return the memory of N rows with a new plan in it, of age 0."""
        search, n = self.search, len(memory["age"])
        draws, pick, jitter = self._draw(n, memory["mean"].device, generator)
        known = memory["mean"] if search.warm_start else torch.full_like(memory["mean"], self.family.fill)
        proposal, found, forked, count = self.family.broad(known), None, state, 0
        for i in range(search.iterations):
            candidates = self.propose(i, proposal, draws[:, i], found, memory)
            if candidates.shape[1] != count:
                count = candidates.shape[1]
                forked = model.dynamics.fork(state, count)
            values = self._score(model, forked, candidates, generator)
            best, index = values.topk(min(search.num_elites, count), dim=1)
            elites = candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))
            weights = self.weigh(best)
            proposal = proposal.toward(self.family.fit(elites, weights), search.momentum)
            found = Found(proposal, elites, weights)
        actions = self.choose(found, explore, pick)
        if explore:
            actions = self.family.draw(actions, proposal.spread, jitter)
        return memory | {
            "mean": proposal.mean,
            "actions": actions,
            "age": torch.zeros_like(memory["age"]),
            **self.remember(found),
        }

    def _draw(self, n: int, device: torch.device, generator: Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """All noise of one plan, in one draw a row: [N, I, S, H, A] for candidates, [N, E], [N, H, A] for execution."""
        search = self.search
        plan = (search.plan_horizon, self.action_dim)
        sizes = (search.iterations * search.num_samples * plan[0] * plan[1], search.num_elites, plan[0] * plan[1])
        noise = row_noise(n, (sum(sizes),), device, generator)
        candidates, pick, jitter = noise.split(sizes, dim=1)
        shape = (n, search.iterations, search.num_samples, *plan)
        return (
            colour(candidates.reshape(shape), search.noise_beta),
            pick,
            colour(jitter.reshape(n, *plan), search.noise_beta),
        )

    def _score(self, model: Any, forked: State, candidates: Tensor, generator: Generator | None) -> Tensor:
        """Value [N, S] of each candidate, all of them imagined in one call."""
        trajectory = model.imagine(forked, candidates.flatten(0, 1), self.search.plan_horizon, generator)
        values = discounted_return(trajectory, self.search.gamma, self.terminal_value)
        if not values.isfinite().all():
            raise FloatingPointError(
                f"The world model predicts a return that is not finite for {int((~values.isfinite()).sum())} of "
                f"{len(values)} imagined action sequences, so no plan can be made."
            )
        return values.unflatten(0, candidates.shape[:2])
