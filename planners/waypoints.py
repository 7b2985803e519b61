"""A hand-written way through a maze: what mazes are recorded with, and what reaching the goal can score at best."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Memory
from planners.base import Decision, Planner
from worldmodels.common.options import AtLeast, checked
from worldmodels.envs.maze import MazeName, grid_of
from worldmodels.errors import require
from worldmodels.nets.choices import Discrete


class Waypoints(Planner):
    """Rolls from cell to cell on a shortest way to the goal, by a force towards the next cell and against the speed.

    It reads positions instead of features, ``[x, y, vx, vy]`` and the goal's, so it needs no model.
    """

    reads_state = True

    @checked
    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        maze: Annotated[MazeName, "its name, as in env.maze"],
        stiffness: Annotated[float, "force for a distance of 1"] = 1.0,
        damping: Annotated[float, "force against a speed of 1"] = 0.3,
        noise_std: Annotated[float, AtLeast(0), "exploring: deviation of the noise, for more than one way"] = 0.0,
    ) -> None:
        super().__init__(action_dim, discrete)
        require(action_dim == 2 and not discrete, "planner=waypoints is for mazes, which have two forces for actions.")
        self.grid, self.stiffness, self.damping, self.noise_std = grid_of(maze), stiffness, damping, noise_std

    @override
    def initial(self, n: int) -> Memory:
        return {}

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Push towards the next cell, or the goal once in its cell."""
        feat = decision.state.feat
        require(feat.shape[-1] == 8, "planner=waypoints reads env=maze's positions, not a model's features.")
        place, speed, goal, _ = feat.chunk(4, dim=-1)
        target = torch.from_numpy(
            np.stack([self._next(a, b) for a, b in zip(place.numpy(), goal.numpy(), strict=True)])
        )
        force = self.stiffness * (target.to(place.dtype) - place) - self.damping * speed
        if decision.explore:
            force = force + self.noise_std * decision.streams.normal(2)
        return force.clamp(-1, 1), memory

    def _next(self, place: np.ndarray, goal: np.ndarray) -> np.ndarray:
        here, there = self.grid.cell_at(place), self.grid.cell_at(goal)
        return goal if here == there else self.grid.center(self.grid.towards(here, there))
