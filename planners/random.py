"""Actions that consult no model: the baseline, and what fills a replay buffer before there is a model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Memory
from planners.base import Decision, Planner
from planners.search.proposals import CategoricalProposal
from worldmodels.common.randomness import color_noise, row_noise
from worldmodels.errors import require


class Random(Planner):
    """Uniform actions, independent in time with ``beta`` = 0, or drifting slowly to explore farther with more.

    ``beta`` is the exponent of the spectrum (1 pink, 2 red) of the normal noise behind the actions, whose cumulative
    distribution maps it onto the box: at every single step, actions are uniform whatever ``beta`` is. One correlated
    sequence lasts ``length`` decisions or until the episode ends; memory holds it as ``noise`` [N, length, A], with
    ``age`` the number of its steps taken.
    """

    def __init__(self, action_dim: int, discrete: bool, beta: float = 0.0, length: int = 200) -> None:
        super().__init__(action_dim, discrete)
        require(beta >= 0, f"beta={beta} must not be negative.")
        require(length >= 1, f"length={length} must be at least 1.")
        self.beta = beta
        self.length = length
        self.choices = CategoricalProposal(action_dim, 0.0) if discrete else None

    def initial(self, n: int) -> Memory:
        """No sequence yet, which is the same as a sequence used up."""
        return {
            "noise": torch.zeros(n, self.length, self.action_dim),
            "age": torch.full((n,), self.length, dtype=torch.int64),
        }

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Take the next step of each row's sequence, drawing new ones where they are used up or an episode starts."""
        age, noise = memory["age"], memory["noise"]
        rows = (age >= self.length).nonzero().squeeze(1)
        if len(rows) > 0:
            shape = (self.length, self.action_dim)
            drawn = color_noise(row_noise(len(rows), shape, decision.device, decision.generator), self.beta)
            noise = noise.index_copy(0, rows, drawn)
            age = age.index_fill(0, rows, 0)
        normal = noise[torch.arange(len(age), device=age.device), age]
        return self.actions(normal), {"noise": noise, "age": age + 1}

    def actions(self, normal: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Uniform actions from standard normal numbers."""
        if self.choices is None:
            return torch.erf(normal / 2**0.5)
        uniform = torch.full_like(normal, self.choices.default_mean)
        return self.choices.draw(uniform, torch.zeros_like(normal), normal)
