"""Model predictive path integral control: the whole algorithm, from top to bottom."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Memory
from planners.base import Decision
from planners.search.shooting import SamplingPlanner, SearchConfig, SearchResult
from worldmodels.common.options import AtLeast, Fields, MoreThan, checked
from worldmodels.model import ValueFunction
from worldmodels.nets.choices import Discrete
from worldmodels.nets.distributions import exponential

SPREAD_FLOOR = 1e-4
"""Elites whose values differ by less count alike: normalizing must not blow up rounding errors."""


WIDE = 20
"""Numbers of an action from which on TD-MPC2 searches longer."""


class MPPI(SamplingPlanner):
    """Weighs the best action sequences by the exponential of their value and averages them.

    Williams et al., "Information Theoretic MPC for Model-Based Reinforcement Learning", 2017, with elites and a fitted
    deviation as in TD-MPC2 (Hansen et al., 2024). Unlike there, values are divided by their deviation among the elites,
    so that ``temperature`` does not depend on the reward's scale. Exploring, one elite is drawn by weight and noise of
    the fitted deviation added; otherwise the mean is executed, or an elite too, without noise.
    """

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        temperature: Annotated[float, MoreThan(0), "towards 0 only the best elite counts"] = 1.0,
        normalize_values: Annotated[
            bool, "temperature in deviations of the elites' values; false: in units of return"
        ] = True,
        execute: Annotated[
            Literal["mean", "elite"], "where nothing is explored: the mean plan, or an elite drawn by weight (TD-MPC2)"
        ] = "mean",
        wide_iterations: Annotated[
            int, AtLeast(0), "further iterations where an action has 20 numbers or more; TD-MPC2: 2"
        ] = 0,
        terminal_value: ValueFunction | None = None,
        **options: Annotated[Any, Fields(SearchConfig)],
    ) -> None:
        super().__init__(action_dim, discrete, options, terminal_value)
        self.temperature, self.normalize_values, self.execute = temperature, normalize_values, execute
        self.iterations = self.settings.iterations + wide_iterations * (action_dim >= WIDE)

    def run_search(self, decision: Decision, memory: Memory) -> SearchResult:
        """Iterate: draw sequences around the mean, imagine them, keep the elites, refit mean and spread."""
        guide = self.ask_guide(decision)
        count = self.settings.num_samples - guide.actions.shape[1]
        forked = decision.model.dynamics.fork(decision.state, self.settings.num_samples)
        # Begin around the rest of the plan before, as broadly as without one.
        proposal = self.family.widen(memory["mean"])
        for noise in self.draw_noise(decision, self.iterations * count).split(count, dim=1):
            # Draw candidates [N, S, H, A]; a guide's policy contributes the last of them.
            candidates = self.family.draw(proposal.mean[:, None], proposal.spread[:, None], noise)
            candidates = torch.cat([candidates, guide.actions], dim=1)
            # Imagine each from its own copy of the state: discounted rewards, then the value of the last state.
            values = self.evaluate(decision, forked, candidates, guide.terminal_value)
            # Keep the best E and weigh them by the exponential of their value.
            elites, best = self.elites(candidates, values)
            weights = self.weigh(best)
            # Refit the proposal to the weighted elites.
            proposal = proposal.interpolate(self.family.fit(elites, weights), self.settings.momentum)
        return SearchResult(candidates, values, proposal, elites, weights)

    def weigh(self, values: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """Return weights of the elites that sum to 1 a row, given their values, best first. Shifts do not matter."""
        advantage = values - values[:, :1]
        if not self.normalize_values:
            return torch.softmax(advantage / self.temperature, dim=1)
        scale = advantage.std(dim=1, keepdim=True, unbiased=False).clamp_min(SPREAD_FLOOR)
        return torch.softmax(advantage / (scale * self.temperature), dim=1)

    def choose(self, found: SearchResult, decision: Decision) -> Float[Tensor, "N H A"]:
        """Return the mean plan, or one elite drawn by weight."""
        if not decision.explore and self.execute == "mean":
            return self.family.mode(found.proposal.mean)
        index = (found.weights / exponential(decision.streams.normal(found.weights.shape[1]))).argmax(dim=1)
        return found.elites[torch.arange(len(index), device=index.device), index]
