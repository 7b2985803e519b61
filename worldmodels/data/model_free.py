"""Agents of planners that consult no model: they look at nothing, or at the observation itself."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from typing_extensions import override

from dynamics.base import State
from planners.base import Planner
from worldmodels.agent import Agent
from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.errors import UserError


class ModelFreeAgent(Agent):
    """Stands where an :class:`Agent` stands, for planners that look at nothing: no model, no filtering."""

    model = None

    def __init__(self, n: int, generator: Generator) -> None:
        self.state, self.memory, self.generator = State(torch.zeros(n, 1), {}), None, generator

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Filter nothing: there is no model."""

    @override
    def act(self, planner: Planner, reset: Tensor) -> Tensor:
        if self.memory is None:
            self.memory = planner.initial(len(reset))
        action, self.memory = planner.act(None, self.state, self.memory, reset, True, self.generator)
        return action


class StateAgent(ModelFreeAgent):
    """Stands there too, for planners that read the observation itself instead of features (``reads_state``)."""

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Read ``state``, and the goal's."""
        if "state" not in rows:
            raise UserError("a planner that reads positions needs env.obs=state or both.")
        keys = [key for key in ("state", GOAL_PREFIX + "state") if key in rows]
        self.state = State(torch.cat([rows[key] for key in keys], dim=-1), {})
