"""A search guided by what was learned: a policy that takes part in it, a value that sees beyond its plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from dynamics.base import Dynamics, Memory, Rollout, State
from planners.base import ImaginationSize, Learner, PlanInfo, Planner
from planners.learning.returns import ValueFunction
from planners.search.shooting import SamplingPlanner
from worldmodels.errors import require

if TYPE_CHECKING:
    from worldmodels.model import WorldModel


class Guided(Planner):
    """Searches with a learner's policy among the candidates and its value at the end of each (TD-MPC2, section 3).

    ``mppi`` and ``cem`` may be guided by any :class:`~planners.base.Learner`: by ``tdmpc``'s this is TD-MPC2, by
    ``actor_critic``'s a hybrid of the two schools.

    Args:
        learner: builds what learns.
        search: builds the sampling planner.
        mpc: False acts by the policy alone.
        policy_samples: candidates, of the search's own number, that the policy imagines.
        terminal_value: False ends plans without a value, to see what it is worth.
    """

    def __init__(
        self,
        action_dim: int,
        discrete: bool,
        learner: Callable[..., Learner],
        search: Callable[..., SamplingPlanner],
        mpc: bool = True,
        policy_samples: int = 24,
        terminal_value: bool = True,
    ) -> None:
        super().__init__(action_dim, discrete)
        self.learner = learner(action_dim=action_dim, discrete=discrete)
        self.search = search(action_dim=action_dim, discrete=discrete)
        require(
            isinstance(self.search, SamplingPlanner), "planner.search must try action sequences, as mppi and cem do."
        )
        most = self.search.settings.num_samples - self.search.settings.num_elites
        require(
            0 <= policy_samples <= most,
            f"policy_samples={policy_samples} must lie between 0 and {most}, which leaves as many drawn candidates as "
            "elites.",
        )
        self.mpc = mpc
        self.guide = Guide(self.learner, policy_samples, terminal_value)

    @property
    def imagination_size(self) -> ImaginationSize:
        """The search's."""
        return self.search.imagination_size if self.mpc else ImaginationSize(0, 0)

    @property
    def trainable(self) -> Learner:
        """What a checkpoint must hold."""
        return self.learner

    def check(self, dynamics: Dynamics, length: int) -> None:
        """What the learner refuses."""
        self.learner.check(dynamics, length)

    def initial(self, n: int) -> Memory:
        """The search's, or nothing."""
        return self.search.initial(n) if self.mpc else self.learner.initial(n)

    def act(
        self,
        model: WorldModel,
        state: State,
        memory: Memory,
        reset: Bool[Tensor, " N"],
        explore: bool,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "N A"], Memory]:
        """Search, or act by the policy alone."""
        if not self.mpc:
            return self.learner.act(model, state, memory, reset, explore, generator)
        return self.search.act(model, state, memory, reset, explore, generator, self.guide)

    def inspect(self, model: WorldModel, state: State, memory: Memory, generator: Generator | None = None) -> PlanInfo:
        """The search's, guided, or the policy's."""
        if not self.mpc:
            return self.learner.inspect(model, state, memory, generator)
        return self.search.inspect(model, state, memory, generator, self.guide)

    def loss(self, model: WorldModel, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The learner's."""
        return self.learner.loss(model, rollout, batch)

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """The learner's."""
        return self.learner.metrics(rollout)

    def after_step(self) -> None:
        """The learner's."""
        self.learner.after_step()


@dataclass(frozen=True)
class Guide:
    """What a :class:`~planners.search.shooting.SamplingPlanner` may ask a learner."""

    learner: Learner
    policy_samples: int
    terminal_value: bool

    def noise(self, search: SamplingPlanner) -> int:
        """Standard normal numbers a row that one plan takes of a guide."""
        return sum(self._sizes(search))

    def ask(
        self,
        search: SamplingPlanner,
        model: Any,
        state: State,
        noise: Float[Tensor, "N K"],
        generator: Generator | None,
    ) -> GuideProposals:
        """Let the policy imagine its candidates; keep the rest of the noise for values."""
        n, drawn = len(state.feat), noise.split(self._sizes(search), dim=1)
        steps = iter(drawn[0].reshape(n * self.policy_samples, search.plan_horizon, search.action_dim).unbind(1))

        def choose(feat: Tensor) -> Tensor:
            return self.learner.policy(feat).choose(next(steps))

        if self.policy_samples == 0:
            actions = noise.new_zeros(n, 0, search.plan_horizon, search.action_dim)
        else:
            forked = model.dynamics.fork(state, self.policy_samples)
            actions = model.imagine(forked, choose, search.plan_horizon, generator).action
            actions = actions.unflatten(0, (n, self.policy_samples))
        return GuideProposals(self.learner if self.terminal_value else None, actions, drawn[1:])

    def _sizes(self, search: SamplingPlanner) -> list[int]:
        """Numbers for the policy's candidates, then for the values of each iteration."""
        per_value = self.learner.value_noise(search.settings.num_samples) if self.terminal_value else 0
        candidates = self.policy_samples * search.plan_horizon * search.action_dim
        return [candidates] + [per_value] * search.settings.iterations


@dataclass(frozen=True)
class GuideProposals:
    """A guide's answer for one plan of N rows."""

    learner: Learner | None
    actions: Float[Tensor, "N P H A"]
    """The policy's candidates."""
    noise: tuple[Tensor, ...]

    def value(self, i: int, candidates: int) -> ValueFunction | None:
        """The learner's value as a function of features [N * candidates, F], for iteration ``i``."""
        if self.learner is None:
            return None

        def value(feat: Tensor) -> Tensor:
            return self.learner.value(feat.unflatten(0, (-1, candidates)), self.noise[i]).flatten()

        return value
