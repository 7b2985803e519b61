"""The cross-entropy method, with the improvements of iCEM as options."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Memory
from planners.base import Decision
from planners.search.proposals import Proposal
from planners.search.shooting import SamplingPlanner, SearchNoise, SearchResult
from worldmodels.errors import require
from worldmodels.model import ValueFunction


class CEM(SamplingPlanner):
    """Refits a distribution to the best action sequences, each counting alike, and executes the best one found.

    ``noise_beta``, ``keep_elites``, ``decay`` and ``add_mean`` are iCEM's: Pinneri et al., "Sample-efficient
    Cross-Entropy Method for Real-time Planning", 2020; 0, 0, 1 and false give the plain method. ``keep_elites`` in
    [0, 1] is the share of elites that take part again in the next iteration and, moved up by the steps executed, in
    the first iteration of the next plan (with ``warm_start``). ``decay`` >= 1 divides the number of candidates at
    each iteration, down to twice ``num_elites``. ``add_mean`` lets the mean take part in the last iteration. Kept
    elites and the mean replace drawn candidates, so that their number stays what it says. Exploring, the fitted
    distribution is sampled. ``options`` are those of :class:`planners.search.shooting.SearchConfig`.
    """

    plan_keys = (*SamplingPlanner.plan_keys, "elites")

    def __init__(
        self,
        action_dim: int,
        discrete: bool,
        keep_elites: float = 0.3,
        decay: float = 1.25,
        add_mean: bool = True,
        terminal_value: ValueFunction | None = None,
        **options: Any,
    ) -> None:
        super().__init__(action_dim, discrete, options, terminal_value)
        settings = self.settings
        require(0 <= keep_elites <= 1, f"keep_elites={keep_elites} must lie in [0, 1].")
        require(decay >= 1, f"decay={decay} must be at least 1.")
        self.kept = round(keep_elites * settings.num_elites)
        require(
            self.kept + add_mean < settings.num_samples,
            f"num_samples={settings.num_samples} leaves no new candidates beside {self.kept} kept elites.",
        )
        self.decay = decay
        self.add_mean = add_mean

    def initial(self, n: int) -> Memory:
        """No plan and no elites yet."""
        memory = super().initial(n)
        return memory | {"elites": memory["plan"][:, None].repeat(1, self.kept, 1, 1)}

    def remember(self, found: SearchResult) -> Memory:
        """Keep the best elites for the next plan."""
        return {"elites": found.elites[:, : self.kept]}

    def run_search(self, decision: Decision, memory: Memory, noise: SearchNoise) -> SearchResult:
        """Iterate: draw sequences, imagine them, keep the elites, refit mean and spread to them."""
        guide, settings = self.ask_guide(decision, noise), self.settings
        proposal, found, forked, count = self.family.widen(memory["mean"]), None, decision.state, 0
        for i in range(settings.iterations):
            # Draw candidates, fewer at each iteration; kept elites and the mean replace some of them.
            drawn = noise.candidates[:, i, guide.actions.shape[1] :]
            candidates = self._replaced(i, proposal, self._drawn(i, proposal, drawn), found, memory)
            candidates = torch.cat([candidates, guide.actions], dim=1)
            if candidates.shape[1] != count:
                count = candidates.shape[1]
                forked = decision.model.dynamics.fork(decision.state, count)
            # Imagine each from its own copy of the state.
            values = self.evaluate(decision, forked, candidates, guide.values[i])
            # Keep the best; each counts alike.
            elites, best = self.elites(candidates, values)
            weights = torch.full_like(best, 1 / best.shape[1])
            # Refit the proposal.
            proposal = proposal.interpolate(self.family.fit(elites, weights), settings.momentum)
            found = SearchResult(candidates, values, proposal, elites, weights)
        return found

    def _drawn(self, i: int, proposal: Proposal, noise: Float[Tensor, "N S H A"]) -> Float[Tensor, "N S2 H A"]:
        """Draw fewer candidates at each iteration, down to twice the elites."""
        least = min(self.settings.num_samples, 2 * self.settings.num_elites)
        count = max(int(self.settings.num_samples * self.decay**-i), least)
        return self.family.draw(proposal.mean[:, None], proposal.spread[:, None], noise[:, :count])

    def _replaced(
        self, i: int, proposal: Proposal, candidates: Tensor, found: SearchResult | None, memory: Memory
    ) -> Float[Tensor, "N S H A"]:
        """Put kept elites in place of the first candidates, and in the last iteration the mean in the last's."""
        if self.kept > 0 and found is not None:
            candidates[:, : self.kept] = found.elites[:, : self.kept]
        elif self.kept > 0 and self.warm_start:
            candidates[:, : self.kept] = self._earlier(candidates[:, : self.kept], memory)
        if self.add_mean and i == self.settings.iterations - 1:
            candidates[:, -1] = self.family.mode(proposal.mean)
        return candidates

    def _earlier(self, drawn: Tensor, memory: Memory) -> Tensor:
        """Elites of the last plan, whose unknown end is taken from ``drawn``; only ``drawn`` where there was none."""
        rest = self.plan_horizon - self.replan_every
        elites = torch.cat([memory["elites"][:, :, :rest], drawn[:, :, rest:]], dim=2)
        return torch.where((memory["age"] > 0)[:, None, None, None], elites, drawn)

    def choose(self, found: SearchResult, explore: bool, noise: Float[Tensor, "N E"]) -> Float[Tensor, "N H A"]:
        """Return the best candidate or, exploring, the mean."""
        return found.proposal.mean if explore else found.elites[:, 0]
