"""Actions that consult no model: the baseline, and what fills a replay buffer before there is a model."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Memory
from planners.base import Decision, Planner
from planners.search.proposals import CategoricalProposal, color_noise
from planners.search.shooting import NoiseBeta
from worldmodels.common.host import read, send
from worldmodels.common.options import Count, checked
from worldmodels.nets.choices import Discrete, sizes_of


class Random(Planner):
    """Uniform actions, independent in time with ``noise_beta=0``, or drifting slowly to explore farther with more.

    The actions are normal noise of that spectrum, mapped onto the box by its cumulative distribution: at every single
    step they are uniform, whatever the spectrum. Memory holds one correlated sequence a row as ``noise``
    [N, length, A], with ``age`` the number of its steps taken.
    """

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        noise_beta: NoiseBeta = 0.0,
        length: Annotated[Count, "decisions that one sequence lasts, or until its episode ends"] = 200,
    ) -> None:
        super().__init__(action_dim, discrete)
        self.noise_beta, self.length = noise_beta, length
        self.choices = CategoricalProposal(sizes_of(action_dim, discrete), 0.0) if discrete else None

    def initial(self, n: int) -> Memory:
        """Return no sequence yet, which is the same as a sequence used up."""
        return {
            "noise": torch.zeros(n, self.length, self.action_dim),
            "age": torch.full((n,), self.length, dtype=torch.int64, device="cpu"),
        }

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Take the next step of each row's sequence, drawing new ones where they are used up or an episode starts."""
        age, noise = memory["age"], memory["noise"]
        rows = [row for row, steps in enumerate(read(age)) if steps >= self.length]
        if rows:
            drawn = color_noise(decision.streams.select(rows).normal(self.length, self.action_dim), self.noise_beta)
            noise = noise.index_copy(0, send(torch.tensor(rows), noise.device), drawn)
            age = age.index_fill(0, torch.tensor(rows), 0)
        normal = noise[torch.arange(len(age), device=noise.device), send(age, noise.device)]
        return self.actions(normal), {"noise": noise, "age": age + 1}

    def actions(self, normal: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Uniform actions from standard normal numbers."""
        if self.choices is None:
            return torch.erf(normal / 2**0.5)
        return self.choices.draw(self.choices.unknown(normal), torch.zeros_like(normal), normal)
