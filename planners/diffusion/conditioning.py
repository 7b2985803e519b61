"""Conditions of trajectories and plans: a return, optimality, a skill, a goal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from worldmodels.common.options import AtLeast, Between, Count, checked
from worldmodels.errors import OptionError, require


@dataclass(frozen=True)
class Window:
    """Recorded trajectories of L steps, one a row: what labels are read from."""

    feat: Float[Tensor, "N L F"]
    """Latents, without the goal."""
    action: Float[Tensor, "N L A"]
    """Each led on from its latent."""
    reward: Float[Tensor, "N L"]
    """Reward of each step."""
    advantage: Float[Tensor, " N"] | None
    """How much more the first step's return was than its value, where a critic is learned."""
    skill: Tensor | None
    """The number of the skill that was recorded, [N], where one was."""
    goal: Float[Tensor, "N G"] | None
    """The latent, seen as goals are, of a state that was reached later."""
    valid: Bool[Tensor, " N"]
    """False where an episode ends on the way: such a window teaches nothing."""


GuidanceScale = Annotated[
    float, "of classifier-free guidance: 1 samples what was recorded under the label, more exaggerates it"
]


class Label(nn.Module, ABC):
    """One label: ``width`` numbers, how strongly a plan is asked for it, and what is asked for.

    ``goal_dim`` are the numbers of a goal's latent, 0 where there are no goals.
    """

    width: int = 1
    reads_goal: bool = False
    """True: goals may lie anywhere later in the window, not only within the trajectory."""
    reads_advantage: bool = False
    """True: it compares with a critic."""
    reads_reward: bool = False
    """True: it depends on what was earned, and so on the goal that was shown then."""

    def __init__(self, goal_dim: int = 0, weight: GuidanceScale = 1.0) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def encode_data(self, window: Window) -> Float[Tensor, "N _"]:
        """Return the label of recorded trajectories."""

    @abstractmethod
    def encode_target(self, rows: int, goal: Float[Tensor, "N G"] | None) -> Float[Tensor, "N _"] | None:
        """Return the label that plans are to have. None for none."""


class ReturnLabel(Label):
    """Sum of a trajectory's rewards (Decision Diffuser), in deviations from the data's mean."""

    reads_reward = True
    QUANTILE = 0.95
    moments: Tensor
    count: Tensor

    @checked
    def __init__(
        self,
        goal_dim: int = 0,
        weight: GuidanceScale = 1.2,
        value: Annotated[float | None, "return of a plan that is asked for; null: the data's 95th percentile"] = None,
        rate: Annotated[float, Between(0, 1, "low"), "at which the data's numbers go on moving"] = 1e-3,
    ) -> None:
        super().__init__(goal_dim, weight)
        self.value, self.rate = value, rate
        self.register_buffer("moments", torch.tensor([0.0, 1.0, 0.0]))  # mean, variance, high percentile
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def encode_data(self, window: Window) -> Float[Tensor, "N 1"]:
        """Normalise the return. The data's mean and deviation are followed on the way."""
        total = window.reward.sum(1)
        if self.training:
            self._follow(total, window.valid)
        return self._normal(total)[:, None]

    @override
    def encode_target(self, rows: int, goal: Tensor | None) -> Float[Tensor, "N 1"]:
        value = self.moments[2] if self.value is None else torch.full_like(self.moments[2], self.value)
        return self._normal(value).expand(rows, 1)

    @torch.no_grad()
    def _follow(self, total: Tensor, counts: Tensor) -> None:
        """Follow the rows that count. Where none does, nothing moves."""
        self.count += counts.any()
        total = torch.where(counts, total, torch.nan)
        mean, before = total.nanmean(), self.moments[0]
        rate = (1 / self.count.clamp(min=1)).clamp(min=self.rate)
        # Within the batch, and between it and what was: no mean is ever squared, as Chan et al. (1979) add variances.
        spread = (total - mean).square().nanmean() + (1 - rate) * (mean - before).square()
        seen = torch.stack([mean, spread, total.nanquantile(self.QUANTILE)])
        self.moments.copy_(torch.where(counts.any(), self.moments.lerp(seen, rate), self.moments))

    def _normal(self, total: Tensor) -> Tensor:
        mean, variance, _ = self.moments.unbind()
        return (total - mean) / variance.clamp(min=1e-4).sqrt()


class OptimalityLabel(Label):
    """Label of a first step that did better than the data usually does from its state (CFGRL, Frans et al. 2025)."""

    reads_advantage = reads_reward = True
    one: Tensor

    def __init__(self, goal_dim: int = 0, weight: GuidanceScale = 1.0) -> None:
        super().__init__(goal_dim, weight)
        self.register_buffer("one", torch.ones(1, 1), persistent=False)

    def encode_data(self, window: Window) -> Float[Tensor, "N 1"]:
        """Return 1 where the advantage is not negative, else 0."""
        return (window.advantage >= 0).float()[:, None]

    def encode_target(self, rows: int, goal: Tensor | None) -> Float[Tensor, "N 1"]:
        """Return 1: better."""
        return self.one.expand(rows, 1)


class SkillLabel(Label):
    """Which of several skills a trajectory shows, from the recording's column ``skill``."""

    @checked
    def __init__(
        self,
        skills: Annotated[Count, "how many there are"],
        goal_dim: int = 0,
        weight: GuidanceScale = 1.0,
        value: Annotated[int | None, AtLeast(0), "the skill that is asked for; null: none in particular"] = None,
    ) -> None:
        super().__init__(goal_dim, weight)
        if value is not None and value >= skills:
            raise OptionError("value", value, f"must be less than skills={skills}")
        self.width, self.value = skills, value
        self.register_buffer("unit", torch.eye(skills), persistent=False)

    @override
    def encode_data(self, window: Window) -> Float[Tensor, "N S"]:
        require(
            window.skill is not None,
            "a skill is read from a recording's column 'skill', which this has not: name several recordings, "
            "data=[one,other], or files that have it.",
        )
        if not torch.compiler.is_compiling():  # compiled, an index too high is an error of the graph's
            lowest, highest = torch.stack(window.skill.aminmax()).tolist()
            require(
                lowest >= 0 and highest < self.width,
                f"the recording shows skills {lowest} to {highest}, and the label's option skills={self.width} counts "
                f"0 to {self.width - 1}.",
            )
        return self.unit[window.skill.long()]

    @override
    def encode_target(self, rows: int, goal: Tensor | None) -> Float[Tensor, "N S"] | None:
        return None if self.value is None else self.unit[self.value].expand(rows, -1)


class GoalLabel(Label):
    """State to be reached some time later, as a condition instead of a given end (hindsight). CFGRL's goals."""

    reads_goal = True

    def __init__(self, goal_dim: int = 0, weight: GuidanceScale = 1.0) -> None:
        super().__init__(goal_dim, weight)
        require(goal_dim > 0, "a goal is asked for where environments show goals, as env=maze does.")
        self.width = goal_dim

    @override
    def encode_data(self, window: Window) -> Float[Tensor, "N G"]:
        return window.goal

    @override
    def encode_target(self, rows: int, goal: Float[Tensor, "N G"] | None) -> Float[Tensor, "N G"]:
        return goal
