"""Acting in a vector of environments and recording every row of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dynamics.base import State
from planners.base import Planner
from worldmodels.agent import Agent
from worldmodels.common.batch import ROW_FLAGS
from worldmodels.common.columns import MEMORY_PREFIX
from worldmodels.common.timing import Stopwatch
from worldmodels.data.prefetch import pays
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.model import WorldModel

log = logging.getLogger(__name__)


@runtime_checkable
class Spaced(Protocol):
    """Whatever has observations and actions, environments above all."""

    observation_spec: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    action_dim: int


def row_spec(envs: Spaced, latents_of: WorldModel | None = None) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of every column of the replay. With a model, also of the latents that are kept beside."""
    spec = dict(envs.observation_spec)
    spec["action"] = ((envs.action_dim,), torch.float32)
    spec["reward"] = ((), torch.float32)
    spec |= {key: ((), dtype) for key, dtype in ROW_FLAGS.items()}
    if latents_of is not None:
        memory = latents_of.initial(1).memory
        spec |= {MEMORY_PREFIX + key: (tuple(value.shape[1:]), value.dtype) for key, value in memory.items()}
    return spec


def warn_of_rewards(rewards: Tensor, largest: float) -> bool:
    """Say so if rewards are beyond what the reward head's bins hold. Return whether that was said."""
    greatest = rewards.abs().max().item()
    if greatest <= largest:
        return False
    log.warning(
        "a reward of size %.4g is beyond the bins of the reward head, which reach to %.4g: all such rewards look the "
        "same to it; scale rewards down, or raise symlog_limit of heads.reward",
        *(greatest, largest),
    )
    return True


@dataclass(frozen=True)
class Episode:
    """A finished episode: its undiscounted return, its frames, and the total of frames when it ended."""

    return_: float
    length: int
    frames: int


class Collector:
    """Steps the environments with a planner and appends every row to the replay.

    Where a GPU computes the updates, workers step and draw meanwhile. Rows are the same: they are stored with the next
    step anyway.

    ``decisions`` counts stored steps that an action led to, summed over environments. ``frames`` counts control steps.
    The row of a reset counts as neither. ``ended`` counts episodes, since this process began.
    """

    def __init__(
        self,
        envs: VectorEnv,
        replay: Replay,
        agent: Agent,
        stopwatch: Stopwatch,
        largest_reward: float = math.inf,
        may_end: bool = True,
    ) -> None:
        self.envs, self.replay, self.agent, self.stopwatch = envs, replay, agent, stopwatch
        self.largest_reward, self.may_end = largest_reward, may_end
        self.decisions = self.frames = self.ended = 0
        self.return_ = torch.zeros(envs.num_envs, dtype=torch.float64)
        self.length = torch.zeros(envs.num_envs, dtype=torch.int64)
        self.rows: dict[str, Tensor] | None = None

    def step(self, planner: Planner) -> list[Episode]:
        """Filter and store the newest rows, then act on them. Return the episodes that they ended."""
        with self.stopwatch("environments"):
            rows = self.rows = self._newest() or self.envs.reset()
        with self.stopwatch("filter"):
            self.agent.filter(rows)
        with self.stopwatch("replay"):
            self.replay.extend(rows | self._stored_latents())
        episodes = self._account(rows)
        with self.stopwatch("plan"):
            action = self.agent.act(planner, rows["is_first"])
        with self.stopwatch("environments"):
            self.envs.begin_step(action)
            self.rows = None if pays(self.agent.generator.device) else self.envs.end_step()
        return episodes

    def _newest(self) -> dict[str, Tensor] | None:
        """Return the rows that are to be stored next, for which a step under way is waited. None before any."""
        if self.envs.stepping:
            self.rows = self.envs.end_step()
        return self.rows

    def _stored_latents(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of those parts of the latest state that the replay keeps."""
        memory = {MEMORY_PREFIX + key: value for key, value in self.agent.state.memory.items()}
        return {key: value.cpu() for key, value in memory.items() if key in self.replay.layout.spec}

    def _account(self, rows: dict[str, Tensor]) -> list[Episode]:
        if warn_of_rewards(rows["reward"], self.largest_reward):
            self.largest_reward = math.inf  # once is enough
        if not self.may_end:
            require_no_end(rows["is_terminal"], self.envs.name)
        self.decisions += int((~rows["is_first"]).sum())
        self.frames += int(rows["frames"].sum())
        self.return_ = torch.where(rows["is_first"], 0.0, self.return_) + rows["reward"].double()
        self.length = torch.where(rows["is_first"], 0, self.length) + rows["frames"]
        ended = rows["is_last"].nonzero().flatten().tolist()
        self.ended += len(ended)
        return [Episode(float(self.return_[i]), int(self.length[i]), self.frames) for i in ended]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continuing in mid-episode takes, simulators included. Plain containers only."""
        try:
            self._newest()
            snapshots = self.envs.snapshot()
        except UserError as error:
            log.warning("the environments could not be saved (%s): a resumed run starts new episodes", error)
            snapshots = None
        return {
            "decisions": self.decisions,
            "frames": self.frames,
            "score": self.return_,
            "length": self.length,
            "rows": self.rows,
            "feat": self.agent.state.feat,
            "state": self.agent.state.memory,
            "memory": self.agent.memory,
            "generator": self.agent.generator.get_state(),
            "envs": snapshots,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, with new episodes where the simulators cannot be put back."""
        self._newest()
        self.rows = None
        self.decisions, self.frames = state["decisions"], state["frames"]
        self.return_, self.length = state["score"], state["length"]
        device = self.agent.model.device
        self.agent.state = State(state["feat"], state["state"]).map(lambda x: x.to(device))
        self.agent.memory = state["memory"] and {key: value.to(device) for key, value in state["memory"].items()}
        if len(state["generator"]) == len(self.agent.generator.get_state()):
            self.agent.generator.set_state(state["generator"].cpu())
        else:
            log.warning("the checkpoint was made on another kind of device: actions are drawn from a new random stream")
        if state["envs"] is None:
            log.warning("the checkpoint holds no simulator states: new episodes begin")
            return
        try:
            self.envs.restore(state["envs"])
            self.rows = state["rows"]
        except UserError as error:
            log.warning("the environments could not be put back (%s): new episodes begin", error)
            self.rows = self.envs.reset()  # here, before anything is saved: where workers have died, this says so


def require_no_end(is_terminal: Tensor, where: str) -> None:
    """Refuse ends for good under a model that takes it that there are none."""
    if is_terminal.any():
        raise UserError(
            f"{where} has episodes that end for good, and heads.cont takes it that none does: "
            "set heads.cont.episodic=true.",
            option="heads.cont.episodic",
            value=False,
        )
