"""The one acting path: filter rows, choose actions, for collecting, evaluating and drawing alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Generator, Tensor

from dynamics.base import Memory, State
from planners.base import Model, Planner
from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import ObservationSpec


class Agent:
    """Filters rows and chooses actions: the one acting path, for collecting, evaluating and drawing alike."""

    def __init__(
        self,
        n: int,
        model: Model,
        explore: bool,
        generator: torch.Generator,
        precision: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model, self.explore, self.generator, self.precision = model, explore, generator, precision
        self.state: State = model.initial(n).map(torch.detach)
        self.memory: Memory | None = None

    @torch.no_grad()
    def filter(self, rows: dict[str, Tensor]) -> None:
        """Take in the newest rows."""
        rows = {key: value.to(self.model.device) for key, value in rows.items()}
        with self.precision():
            self.state = self.model.obs_step(rows, rows["action"], rows["is_first"], self.state, self.generator)

    @torch.no_grad()
    def act(self, planner: Planner, reset: Tensor) -> Tensor:
        """Choose the next actions [N, A], on the CPU; a planner's memory begins with its first decision."""
        if self.memory is None:
            self.memory = planner.initial(len(reset))
        try:
            with self.precision():
                action, self.memory = planner.act(
                    self.model, self.state, self.memory, reset.to(self.model.device), self.explore, self.generator
                )
        except FloatingPointError as error:
            raise UserError(f"{error} Lower optimizer.lr or use trainer.precision=fp32.") from error
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
            raise UserError(
                f"planning for {len(reset)} environments takes more memory than there is: lower env.num_envs or the "
                "planner's candidates."
            ) from error
        return action.float().cpu()


class ModelFreeAgent(Agent):
    """Stands where an :class:`Agent` stands, for planners that look at nothing: no model, no filtering."""

    model = None

    def __init__(self, n: int, generator: Generator) -> None:
        self.state, self.memory, self.generator = State(torch.zeros(n, 1), {}), None, generator

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Look away."""

    def act(self, planner: Planner, reset: Tensor) -> Tensor:
        """Choose without a state."""
        if self.memory is None:
            self.memory = planner.initial(len(reset))
        action, self.memory = planner.act(None, self.state, self.memory, reset, True, self.generator)
        return action


class StateAgent(ModelFreeAgent):
    """Likewise, for planners that read the observation itself instead of features (``reads_state``)."""

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Look at ``state``, and at the goal's."""
        if "state" not in rows:
            raise UserError("a planner that reads positions needs env.obs=state or both.")
        keys = [key for key in ("state", GOAL_PREFIX + "state") if key in rows]
        self.state = State(torch.cat([rows[key] for key in keys], dim=-1), {})


def require_same_spaces(envs: VectorEnv, model: WorldModel, planner: Planner) -> None:
    """Refuse environments that a model was not made for."""
    if (envs.observation_spec, envs.action_dim) != (model.encoder.observations, planner.action_dim):
        raise UserError(
            f"this environment has observations {describe_spec(envs.observation_spec)} and {envs.action_dim} actions, "
            f"the model was made for {describe_spec(model.encoder.observations)} and {planner.action_dim}: use the env "
            "settings it was trained with."
        )


def describe_spec(spec: ObservationSpec) -> str:
    """Observations as a sentence holds them."""
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, (shape, _) in spec.items())
