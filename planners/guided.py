"""A search guided by what was learned: a policy that takes part in it, a value that sees beyond its plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Dynamics, Memory, Rollout
from planners.base import Decision, ImaginationSize, Model, PlanInfo, Planner, Shaping
from planners.learning.learner import Learner
from planners.learning.policies import SampledPolicy
from planners.search.shooting import GuideProposals, SamplingPlanner
from worldmodels.common.options import AtLeast, checked, inside
from worldmodels.errors import OptionError
from worldmodels.nets.choices import Discrete


class Guided(Planner):
    """Searches with a learner's policy among the candidates and its value at the end of each (TD-MPC2, section 3).

    ``mppi`` and ``cem`` may be guided by any :class:`~planners.learning.learner.Learner`: by ``tdmpc``'s this is
    TD-MPC2, by ``actor_critic``'s a hybrid of the two schools.
    """

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        learner: Annotated[Callable[..., Learner], "what learns"],
        search: Annotated[Callable[..., SamplingPlanner], "what tries action sequences"],
        mpc: Annotated[bool, "false acts by the policy alone"] = True,
        policy_samples: Annotated[int, AtLeast(0), "candidates that the policy imagines, of search.num_samples"] = 24,
        terminal_value: Annotated[bool, "false ends plans without a value"] = True,
    ) -> None:
        super().__init__(action_dim, discrete)
        self.learner = learner(action_dim=action_dim, discrete=discrete)
        self.search = search(action_dim=action_dim, discrete=discrete)
        if not isinstance(self.search, SamplingPlanner):
            raise OptionError("search", type(self.search).__name__, "must try action sequences, as MPPI and CEM do")
        most = self.search.settings.num_samples - self.search.settings.num_elites
        if policy_samples > most:
            raise OptionError(
                "policy_samples", policy_samples, f"must be at most {most}, to leave as many drawn candidates as elites"
            )
        self.mpc = mpc
        self.search.guide = LearnedGuide(self.learner, policy_samples, terminal_value)

    @property
    def shaping(self) -> Shaping | None:
        """Bonus or penalty of both parts: the futures that are searched, and those that are learned from."""
        return self.learner.shaping

    @shaping.setter
    def shaping(self, shaping: Shaping | None) -> None:
        self.learner.shaping = self.search.shaping = shaping

    @property
    def acting(self) -> Planner:
        """Who chooses: the search, or the policy alone."""
        return self.search if self.mpc else self.learner

    @property
    @override
    def imagination_size(self) -> ImaginationSize:
        return self.acting.imagination_size

    @property
    @override
    def horizons(self) -> dict[str, int]:
        parts = {"search": self.search.horizons, "learner": self.learner.horizons}
        return {f"{part}.{option}": steps for part, all_of_it in parts.items() for option, steps in all_of_it.items()}

    @property
    @override
    def trainable(self) -> Learner:
        return self.learner

    @property
    @override
    def min_window(self) -> int:
        return self.learner.min_window

    @override
    def cold_start_fraction(self, length: int) -> float:
        return self.learner.cold_start_fraction(length)

    @override
    def check(self, dynamics: Dynamics, length: int) -> None:
        with inside("learner"):
            self.learner.check(dynamics, length)

    @override
    def initial(self, n: int) -> Memory:
        return self.acting.initial(n)

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Search, or act by the policy alone."""
        return self.acting._act(decision, memory)

    def _inspect(self, decision: Decision, memory: Memory) -> PlanInfo | None:
        """Return the guided search's plan, or the policy's."""
        return self.acting._inspect(decision, memory)

    @override
    def loss(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.learner.loss(model, rollout, batch)

    @property
    @override
    def follow_up_losses(self) -> tuple[str, ...]:
        return self.learner.follow_up_losses

    @override
    def follow_up(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.learner.follow_up(model, rollout, batch)

    @override
    def follow_up_parameters(self) -> Iterable[nn.Parameter]:
        return self.learner.follow_up_parameters()

    @override
    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        return self.learner.metrics(rollout)

    @override
    def after_step(self) -> None:
        self.learner.after_step()


@dataclass(frozen=True)
class LearnedGuide:
    """A learner as a search's :class:`~planners.search.shooting.Guide`."""

    learner: Learner
    policy_samples: int
    terminal_value: bool

    def propose(self, search: SamplingPlanner, decision: Decision) -> GuideProposals:
        """Let the policy imagine its candidates. The value draws anew in every call."""

        def value(feat: Tensor) -> Tensor:
            return self.learner.value(feat.unflatten(0, (len(decision.streams), -1)), decision.streams).flatten()

        return GuideProposals(self._candidates(search, decision), value if self.terminal_value else None)

    def _candidates(self, search: SamplingPlanner, decision: Decision) -> Float[Tensor, "N P H A"]:
        noise = decision.streams.normal(self.policy_samples, search.plan_horizon, search.action_dim)
        if self.policy_samples == 0:
            return noise
        imagined = decision.model.imagine(
            decision.model.dynamics.fork(decision.state, self.policy_samples),
            SampledPolicy(self.learner.policy, search.action_dim),
            search.plan_horizon,
            decision.generator,
            noise.flatten(0, 1),
        )
        return imagined.action.unflatten(0, noise.shape[:2])
