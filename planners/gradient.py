"""Planning by gradient ascent on the imagined return, through the model."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Memory, State
from planners.base import Decision, ImaginationSize, PlanInfo
from planners.learning.learner import StraightThrough, require_gradients
from planners.search.proposals import exploring
from planners.search.receding_horizon import Replanner
from worldmodels.common.options import AtLeast, Between, Count, MoreThan, checked
from worldmodels.nets.choices import Discrete, each


class Gradient(Replanner):
    """Improves several action sequences by Adam and executes the best: first-order shooting.

    As in Henaff et al., "Model-Based Planning with Discrete and Continuous Actions", 2017, and Bharadhwaj et al.,
    "Model-Predictive Control via Cross-Entropy and Gradient-Based Optimization", 2020. Box actions are projected
    onto the box after each step. Discrete ones ascend as softmax probabilities and count as their likeliest actions.
    The first sequence starts at the rest of the plan before (with ``warm_start``), the others around it.
    """

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        plan_horizon: Annotated[Count, "imagined decisions of a plan"],
        restarts: Annotated[Count, "sequences improved for each environment"],
        iterations: Annotated[Count, "gradient steps"],
        lr: Annotated[float, MoreThan(0), "Adam's step, in units of the box, or of logits"],
        spread: Annotated[float, AtLeast(0), "deviation of the starts around the plan before"] = 0.5,
        noise_std: Annotated[
            float, AtLeast(0), "exploring: deviation of the noise; Discrete actions: share of uniform ones"
        ] = 0.3,
        gamma: Annotated[float, Between(0, 1), "discount per decision"] = 0.99,
        replan_every: Annotated[Count, "steps of a plan that are executed"] = 1,
        warm_start: Annotated[bool, "begin from the rest of the previous plan"] = True,
        straight_through: StraightThrough = False,
    ) -> None:
        family = exploring(action_dim, discrete, noise_std)
        super().__init__(action_dim, discrete, family, plan_horizon, gamma, replan_every, warm_start)
        self.restarts, self.iterations, self.lr = restarts, iterations, lr
        self.spread, self.noise_std, self.straight_through = spread, noise_std, straight_through

    @property
    @override
    def imagination_size(self) -> ImaginationSize:
        return ImaginationSize(self.restarts, self.plan_horizon)

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse a model without a gradient."""
        self._require(dynamics.gradient)

    def search(self, decision: Decision, memory: Memory) -> Memory:
        """Ascend from ``restarts`` starts and keep the best of what they end in."""
        dynamics = decision.model.dynamics
        self._require(dynamics.gradient)
        n, shape = len(memory["mean"]), (self.restarts, self.plan_horizon, self.action_dim)
        forked = dynamics.fork(decision.state.map(torch.detach), self.restarts)
        free = self._start(memory["mean"], decision.streams.normal(*shape))
        free = self._ascend(decision, forked, free)
        candidates = self.family.mode(self._actions(free))
        values = self._values(decision, forked, candidates.flatten(0, 1)).unflatten(0, (n, -1))
        best = values.argmax(1)
        rows = torch.arange(n, device=best.device)
        actions = candidates[rows, best]
        if decision.explore:
            noise = decision.streams.normal(*shape[1:])
            actions = self.family.draw(actions, torch.full_like(actions, self.noise_std), noise)
        return memory | {"mean": self._actions(free)[rows, best], "actions": actions}

    def _inspect(self, decision: Decision, memory: Memory) -> PlanInfo:
        """Return the plan that is followed. Where there is none yet, return what an ascent ends in."""
        fallback = self.search(decision, self.search_start(memory))["actions"]
        return PlanInfo(self.current_plan(memory, fallback))

    def _start(self, mean: Float[Tensor, "N H A"], noise: Float[Tensor, "N R H A"]) -> Float[Tensor, "N R H A"]:
        """Free numbers to begin from: the plan before, then noise around it."""
        around = mean.clamp(min=1e-3).log() if self.discrete else mean
        noise = torch.cat([torch.zeros_like(noise[:, :1]), self.spread * noise[:, 1:]], dim=1)
        return self._projected(around[:, None] + noise)

    def _ascend(self, decision: Decision, forked: State, free: Tensor) -> Tensor:
        """Adam on every number for itself, so that rows do not see one another."""
        with torch.enable_grad():
            free = free.clone().requires_grad_()
            optimizer = torch.optim.Adam([free], self.lr, fused=True)  # which reads nothing on the host
            for _ in range(self.iterations):
                actions = self._actions(free).flatten(0, 1)
                values = self._values(decision, forked, actions, frozen=True)
                (free.grad,) = torch.autograd.grad(-values.sum(), [free])
                optimizer.step()
                free.data = self._projected(free.data)
        return free.detach()

    def _values(
        self, decision: Decision, forked: State, actions: Float[Tensor, "M H A"], frozen: bool = False
    ) -> Float[Tensor, " M"]:
        """Imagined returns, with gradients to the actions if ``frozen``."""
        imagined = self.imagine(
            decision.model, forked, actions, self.plan_horizon, generator=decision.generator, frozen=frozen
        )
        return decision.require_finite(imagined.discounted_return(self.gamma))

    def _actions(self, free: Tensor) -> Tensor:
        """Return actions as the model reads them: numbers of the box, or probabilities."""
        return each(lambda part: part.softmax(-1), self.sizes, free) if self.discrete else free

    def _projected(self, free: Tensor) -> Tensor:
        return free if self.discrete else free.clamp(-1, 1)

    def _require(self, gradient: str) -> None:
        require_gradients(gradient, self.straight_through, "planner=mppi")
