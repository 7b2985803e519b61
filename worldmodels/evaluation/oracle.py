"""The true simulator in a world model's place: what a planner can do when the model makes no mistakes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Rollout, State
from worldmodels.agent import Agent
from worldmodels.envs import describe, make
from worldmodels.envs.options import Baselines, read
from worldmodels.envs.stream import enter_worker
from worldmodels.envs.vector import VectorEnv, array_state, plain_config
from worldmodels.errors import UserError, sentence
from worldmodels.model import ActionSource, Trajectory

SNAPSHOT = "snapshot"
"""The memory of a state: a simulator's snapshot as bytes, behind their number in eight."""

_simulator: Any = None
"""In a worker process: its environment."""


class Simulators:
    """Processes that each hold one simulator of an environment, and play sequences of actions from snapshots."""

    def __init__(self, env: Mapping[str, Any], discrete: bool, workers: int | None = None) -> None:
        env = plain_config(env)
        env = {**env, **(read(Baselines, env).baseline_overrides or {})}
        self.name, self.discrete = describe(env), discrete
        self.workers = workers or os.cpu_count() or 1
        self._pool = ProcessPoolExecutor(
            self.workers, mp_context=get_context("spawn"), initializer=_start, initargs=(env,)
        )

    def __enter__(self) -> Simulators:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def play(
        self, snapshots: list[bytes], start: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes]]:
        """Features [N, H+1, F], rewards and continuations [N, H] of actions [N, H, A] (or [N, H] indices).

        Row n starts from ``snapshots[start[n]]``. Also the snapshots where the rows end, if H is 1.
        """
        parts = np.array_split(np.arange(len(start)), min(self.workers, len(start)))
        try:
            answers = [self._pool.submit(_play, [snapshots[i] for i in start[part]], actions[part]) for part in parts]
            played = [answer.result() for answer in answers]
        except BrokenProcessPool as error:
            raise UserError(f"a process that simulates {self.name} for the oracle died: {sentence(error)}") from error
        feat, reward, cont = (np.concatenate([part[k] for part in played]) for k in range(3))
        return feat, reward, cont, [snapshot for part in played for snapshot in part[3]]


def _start(env: dict[str, Any]) -> None:
    global _simulator
    enter_worker(env)
    _simulator = make(env, 0)


def _play(snapshots: list[bytes], actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes]]:
    rows = [_play_row(snapshot, row) for snapshot, row in zip(snapshots, actions, strict=True)]
    feat, reward, cont, ends = zip(*rows, strict=True)
    return np.stack(feat), np.stack(reward), np.stack(cont), [end for end in ends if end is not None]


def _play_row(snapshot: bytes, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, bytes | None]:
    """Play one row. After an episode's end nothing is rewarded, and only a terminal state does not go on."""
    stream = pickle.loads(snapshot)
    observation, over = _simulator.restore(stream["env"]), stream["pending_reset"]
    feat = [_feature(observation)]
    reward, cont = np.zeros(len(actions), np.float32), np.ones(len(actions), np.float32)
    for t, action in enumerate(actions):
        if not over:
            observation, reward[t], terminated, truncated, _ = _simulator.step(action)
            over, cont[t] = terminated or truncated, not terminated
        feat.append(_feature(observation))
    end = pickle.dumps({"env": _simulator.snapshot(), "pending_reset": bool(over)}) if len(actions) == 1 else None
    return np.stack(feat), reward, cont, end


def _feature(observation: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the state where there is one. An oracle's features are for looking at, nothing is learned from them."""
    return observation.get("state", np.zeros(1, np.float32))


class OracleDynamics(Dynamics):
    """The simulator behind the dynamics contract: a state's memory is a snapshot, a step restores it and steps."""

    gradient = "none"

    def __init__(self, simulators: Simulators, action_dim: int) -> None:
        super().__init__()
        self.simulators, self.action_dim = simulators, action_dim
        self.layouts = [{SNAPSHOT: (None,)}]

    @override
    def initial(self, n: int) -> State:
        return State(torch.zeros(n, 1), {SNAPSHOT: torch.zeros(n, 8, dtype=torch.uint8)})

    def observe(self, embed: Tensor, action: Tensor, reset: Tensor, state: State) -> tuple[Rollout, State]:
        """Refused: a simulator is not filtered."""
        raise UserError("model=oracle observes nothing: it is for planning in evaluate.py and compare.py.")

    def obs_step(
        self,
        embed: Tensor,
        action: Tensor,
        reset: Tensor,
        state: State,
        generator: Generator | None = None,
        sample: bool | None = None,
    ) -> State:
        """Take in snapshots, which ``embed`` holds."""
        return State(torch.zeros(len(embed), 1), {SNAPSHOT: embed})

    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Restore, step, take a snapshot."""
        feat, _, _, ends = self.play(state, action[:, None])
        return State(feat[:, -1], {SNAPSHOT: pack(ends)})

    @override
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        raise UserError("model=oracle has no posteriors to imagine from.")

    @override
    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        return {}

    def play(self, state: State, actions: Float[Tensor, "N H A"]) -> tuple[Tensor, Tensor, Tensor, list[bytes]]:
        """Features, rewards and continuations of sequences of actions."""
        packed, index = torch.unique_consecutive(state.memory[SNAPSHOT], dim=0, return_inverse=True)
        given = actions.argmax(-1) if self.simulators.discrete else actions
        played = self.simulators.play(unpack(packed), index.numpy(), given.cpu().numpy())
        return *(torch.from_numpy(x) for x in played[:3]), played[3]


class Oracle:
    """Stands where a :class:`~worldmodels.model.WorldModel` stands, for planners that search without learned parts."""

    device = torch.device("cpu")

    def __init__(self, simulators: Simulators, action_dim: int) -> None:
        self.dynamics = OracleDynamics(simulators, action_dim)

    def initial(self, n: int) -> State:
        """Return states without a snapshot."""
        return self.dynamics.initial(n)

    def imagine(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Tensor | None = None,
        frozen: bool = False,
    ) -> Trajectory:
        """Play actions [N, H, A] in the simulator, which has no gradients."""
        if frozen:
            raise UserError("no gradient leads back through a simulator: use planner=mppi.")
        if not isinstance(policy, Tensor):
            raise UserError(
                "a policy reads a model's features, which model=oracle has not: use a planner without learned parts, "
                "such as planner=mppi."
            )
        feat, reward, cont, _ = self.dynamics.play(state, policy)
        return Trajectory(feat, policy, reward, cont)


class OracleAgent(Agent):
    """Knows the environments' states instead of filtering what they show."""

    def __init__(self, envs: VectorEnv, oracle: Oracle, explore: bool, generator: torch.Generator) -> None:
        super().__init__(envs.num_envs, oracle, explore, generator)
        self.envs = envs

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Take snapshots. Raise ``UserError`` where the environments cannot save their state."""
        try:
            snapshots = self.envs.snapshot()
        except UserError as error:
            raise UserError(
                f"model=oracle needs to save and restore {self.envs.name}, which cannot: {sentence(error)}"
            ) from error
        self.state = State(
            torch.zeros(len(snapshots), 1), {SNAPSHOT: pack([pickle.dumps(array_state(s)) for s in snapshots])}
        )


def pack(snapshots: list[bytes]) -> Tensor:
    """Bytes of different lengths as rows of one tensor."""
    longest = max(map(len, snapshots))
    rows = [len(s).to_bytes(8, "little") + s.ljust(longest, b"\0") for s in snapshots]
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).reshape(len(snapshots), -1)


def unpack(rows: Tensor) -> list[bytes]:
    """The inverse of :func:`pack`."""
    lengths = [int.from_bytes(row[:8].numpy().tobytes(), "little") for row in rows]
    return [row[8 : 8 + length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]
