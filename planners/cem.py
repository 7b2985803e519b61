"""The cross-entropy method, with the improvements of iCEM as options."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Memory
from planners.base import Decision
from planners.search.proposals import Proposal
from planners.search.shooting import SamplingPlanner, SearchConfig, SearchResult
from worldmodels.common.host import send
from worldmodels.common.options import AtLeast, Between, Fields, checked
from worldmodels.errors import OptionError
from worldmodels.model import ValueFunction
from worldmodels.nets.choices import Discrete


class CEM(SamplingPlanner):
    """Refits a distribution to the best action sequences, each counting alike, and executes the best one found.

    ``noise_beta``, ``keep_elites``, ``sample_decay`` and ``add_mean`` are iCEM's: Pinneri et al., "Sample-efficient
    Cross-Entropy Method for Real-time Planning", 2020. 0, 0, 1 and false give the plain method. Kept elites take part
    again in the next iteration and, moved up by the steps executed, in the first iteration of the next plan (with
    ``warm_start``). Kept elites and the mean replace drawn candidates, so that their number stays what it says.
    Exploring, the fitted distribution is sampled.
    """

    plan_keys = (*SamplingPlanner.plan_keys, "elites")

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        keep_elites: Annotated[float, Between(0, 1), "share of elites taking part again, in the next plan too"] = 0.3,
        sample_decay: Annotated[
            float, AtLeast(1), "divides the candidates at each iteration, down to twice num_elites"
        ] = 1.25,
        add_mean: Annotated[bool, "the mean takes part in the last iteration"] = True,
        terminal_value: ValueFunction | None = None,
        **options: Annotated[Any, Fields(SearchConfig)],
    ) -> None:
        super().__init__(action_dim, discrete, options, terminal_value)
        samples = self.settings.num_samples
        self.kept = round(keep_elites * self.settings.num_elites)
        if self.kept + add_mean >= samples:
            raise OptionError("num_samples", samples, f"leaves no new candidates beside {self.kept} kept elites")
        self.sample_decay, self.add_mean = sample_decay, add_mean

    @override
    def initial(self, n: int) -> Memory:
        memory = super().initial(n)
        return memory | {"elites": memory["plan"][:, None].repeat(1, self.kept, 1, 1)}

    def remember(self, found: SearchResult) -> Memory:
        """Keep the best elites for the next plan."""
        return {"elites": found.elites[:, : self.kept]}

    def run_search(self, decision: Decision, memory: Memory) -> SearchResult:
        """Iterate: draw sequences, imagine them, keep the elites, refit mean and spread to them."""
        guide, settings = self.ask_guide(decision), self.settings
        proposal, found, forked, count = self.family.widen(memory["mean"]), None, decision.state, 0
        for i in range(settings.iterations):
            # Draw candidates, fewer at each iteration; kept elites and the mean replace some of them.
            noise = self.draw_noise(decision, min(self.draws(i), settings.num_samples - guide.actions.shape[1]))
            candidates = self.family.draw(proposal.mean[:, None], proposal.spread[:, None], noise)
            candidates = self._replaced(i, proposal, candidates, found, memory)
            candidates = torch.cat([candidates, guide.actions], dim=1)
            if candidates.shape[1] != count:
                count = candidates.shape[1]
                forked = decision.model.dynamics.fork(decision.state, count)
            # Imagine each from its own copy of the state.
            values = self.evaluate(decision, forked, candidates, guide.terminal_value)
            # Keep the best; each counts alike.
            elites, best = self.elites(candidates, values)
            weights = torch.full_like(best, 1 / best.shape[1])
            # Refit the proposal.
            proposal = proposal.interpolate(self.family.fit(elites, weights), settings.momentum)
            found = SearchResult(candidates, values, proposal, elites, weights)
        return found

    def draws(self, iteration: int) -> int:
        """Return how many candidates are drawn: fewer at each iteration, down to twice the elites."""
        least = min(self.settings.num_samples, 2 * self.settings.num_elites)
        return max(int(self.settings.num_samples * self.sample_decay**-iteration), least)

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
        """Return elites of the last plan, whose unknown end is taken from ``drawn``.

        Without a plan, return ``drawn``.
        """
        rest = self.plan_horizon - self.replan_every
        elites = torch.cat([memory["elites"][:, :, :rest], drawn[:, :, rest:]], dim=2)
        planned = send(memory["age"] > 0, drawn.device)
        return torch.where(planned[:, None, None, None], elites, drawn)

    def choose(self, found: SearchResult, decision: Decision) -> Float[Tensor, "N H A"]:
        """Return the best candidate or, exploring, the mean."""
        return found.proposal.mean if decision.explore else found.elites[:, 0]
