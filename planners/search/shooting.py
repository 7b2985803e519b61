"""Shooting: try many action sequences in imagination and keep the best. MPPI and CEM are built from these parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Memory, State
from planners.base import Decision, ImaginationSize, PlanInfo, from_options
from planners.search.proposals import CategoricalProposal, GaussianProposal, Proposal, color_noise
from planners.search.receding_horizon import Replanner
from worldmodels.common.options import AtLeast, Between, Count, MoreThan
from worldmodels.errors import OptionError
from worldmodels.model import ValueFunction
from worldmodels.nets.choices import Discrete, sizes_of

NoiseBeta = Annotated[float, AtLeast(0), "spectrum of the noise along time: 0 white, 1 pink, 2 red"]


@dataclass(frozen=True)
class SearchConfig:
    """How a sampling planner searches. Checked where it is made, so that a mistake shows before training."""

    plan_horizon: Annotated[Count, "imagined decisions of a plan"]
    num_samples: Annotated[Count, "action sequences tried for each environment and iteration"]
    num_elites: Annotated[Count, "the best of them, which shape the next iteration"]
    iterations: Annotated[Count, "of a search"]
    min_std: Annotated[float, MoreThan(0), "Box actions: floor under the search's deviation"] = 0.1
    max_std: Annotated[float, MoreThan(0), "Box actions: the deviation it starts with"] = 1.0
    min_prob: Annotated[float, Between(0, 1, "both"), "Discrete actions: floor under each action's probability"] = 0.02
    gamma: Annotated[Annotated[float, Between(0, 1)] | Literal["auto"], "discount per decision; auto: a guide's"] = 0.99
    momentum: Annotated[float, Between(0, 1, "high"), "share of the previous iteration's distribution kept"] = 0.0
    noise_beta: NoiseBeta = 0.0
    replan_every: Annotated[Count, "steps of a plan that are executed"] = 1
    warm_start: Annotated[bool, "begin from the rest of the previous plan"] = True

    def __post_init__(self) -> None:
        if self.num_elites > self.num_samples:
            raise OptionError("num_elites", self.num_elites, f"must be at most num_samples={self.num_samples}")
        if self.min_std > self.max_std:
            raise OptionError("min_std", self.min_std, f"must be at most max_std={self.max_std}")


@dataclass(frozen=True)
class SearchResult:
    """The last iteration of a search for N rows."""

    candidates: Float[Tensor, "N S H A"]
    values: Float[Tensor, "N S"]
    proposal: Proposal
    """Refitted to the elites."""
    elites: Float[Tensor, "N E H A"]
    """Best first."""
    weights: Float[Tensor, "N E"]


@dataclass(frozen=True)
class GuideProposals:
    """A guide's answer for one search of N rows."""

    actions: Float[Tensor, "N P H A"]
    """Candidates of its own."""
    terminal_value: ValueFunction | None
    """The value of a plan's last state; None: plans end without one."""


class Guide(Protocol):
    """Advice for a search beside the model (:class:`planners.guided.LearnedGuide`)."""

    def propose(self, search: SamplingPlanner, decision: Decision) -> GuideProposals:
        """Return candidates and a value for one search."""


class SamplingPlanner(Replanner):
    """Executes what a search over sampled action sequences found. Subclasses write the search's iterations.

    Args:
        options: those of :class:`SearchConfig`.
        terminal_value: the value of a plan's last state, where no guide tells one.
    """

    guide: Guide | None = None
    """Set once by :class:`planners.guided.Guided`."""

    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        options: Mapping[str, Any],
        terminal_value: ValueFunction | None = None,
    ) -> None:
        settings = from_options(SearchConfig, options)
        sizes = sizes_of(action_dim, discrete)
        if sizes and settings.min_prob * max(sizes) >= 1:
            raise OptionError(
                "min_prob", settings.min_prob, f"must be less than 1 / {max(sizes)}, the number of actions"
            )
        family = (
            CategoricalProposal(sizes, settings.min_prob)
            if sizes
            else GaussianProposal(settings.min_std, settings.max_std)
        )
        super().__init__(
            action_dim,
            discrete,
            family,
            settings.plan_horizon,
            settings.gamma,
            settings.replan_every,
            settings.warm_start,
        )
        self.settings, self.terminal_value = settings, terminal_value

    @property
    @override
    def imagination_size(self) -> ImaginationSize:
        return ImaginationSize(self.settings.num_samples, self.plan_horizon)

    @abstractmethod
    def run_search(self, decision: Decision, memory: Memory) -> SearchResult:
        """Search from ``memory["mean"]``: the algorithm itself, iteration by iteration."""

    @abstractmethod
    def choose(self, found: SearchResult, decision: Decision) -> Float[Tensor, "N H A"]:
        """Pick what to execute: sequences, or where exploring, means to which the proposal's spread is added."""

    def remember(self, found: SearchResult) -> Memory:
        """Return what else the next plan starts from. It must have the keys of :meth:`initial`."""
        return {}

    def search(self, decision: Decision, memory: Memory) -> Memory:
        """Search, choose, and add noise where exploring."""
        found = self.run_search(decision, memory)
        actions = self.choose(found, decision)
        if decision.explore:
            actions = self.family.draw(actions, found.proposal.spread, self.draw_noise(decision, 1)[:, 0])
        return memory | {"mean": found.proposal.mean, "actions": actions, **self.remember(found)}

    def evaluate(
        self,
        decision: Decision,
        forked: State,
        candidates: Float[Tensor, "N S H A"],
        terminal_value: ValueFunction | None,
    ) -> Float[Tensor, "N S"]:
        """Return the imagined discounted return of every candidate. ``forked`` has a row for each."""
        actions = candidates.flatten(0, 1)
        imagined = self.imagine(decision.model, forked, actions, self.plan_horizon, generator=decision.generator)
        values = decision.require_finite(imagined.discounted_return(self.gamma, terminal_value))
        return values.unflatten(0, candidates.shape[:2])

    def elites(
        self, candidates: Float[Tensor, "N S H A"], values: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N E H A"], Float[Tensor, "N E"]]:
        """Return the candidates of the highest values, best first, and these values."""
        best, index = values.topk(min(self.settings.num_elites, values.shape[1]), dim=1)
        return candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:])), best

    def ask_guide(self, decision: Decision) -> GuideProposals:
        """Return the guide's candidates and value. Without a guide there are none, and ``terminal_value``."""
        if self.guide is not None:
            return self.guide.propose(self, decision)
        nothing = torch.zeros(len(decision.streams), 0, self.plan_horizon, self.action_dim, device=decision.device)
        return GuideProposals(nothing, self.terminal_value)

    def draw_noise(self, decision: Decision, count: int) -> Float[Tensor, "N S H A"]:
        """Draw noise of the spectrum asked for, for ``count`` sequences a row."""
        white = decision.streams.normal(count, self.plan_horizon, self.action_dim)
        return color_noise(white, self.settings.noise_beta)

    def _inspect(self, decision: Decision, memory: Memory) -> PlanInfo:
        """Return the plan that is followed, beside the last iteration of a search from the same state."""
        found = self.run_search(decision, self.search_start(memory))
        plan = self.current_plan(memory, self.family.mode(found.proposal.mean))
        return PlanInfo(plan, found.candidates, found.values)
