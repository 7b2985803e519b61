"""Processes that simulate candidates: each holds one simulator, restores a snapshot and plays actions from it."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from worldmodels.envs import describe, make
from worldmodels.envs.base import as_reward
from worldmodels.envs.options import Baselines, read
from worldmodels.envs.plain import plain_config
from worldmodels.envs.stream import enter_worker
from worldmodels.errors import UserError, sentence
from worldmodels.nets.choices import Discrete

STARTS_KEPT = 64
"""Starts that a process keeps unpickled, so that further candidates and iterations find them."""
NOTHING, LAST, ALL = slice(0, 0), slice(-1, None), slice(None)
"""Steps whose observations are wanted."""

_simulator: Any = None
"""In a worker process: its environment."""


class Played(NamedTuple):
    """What N sequences of H actions came to in a simulator."""

    feat: np.ndarray
    """States [N, H+1, F], where the simulator shows any."""
    reward: np.ndarray
    """[N, H]."""
    cont: np.ndarray
    """[N, H]: 0 from a terminal state on."""
    seen: dict[str, np.ndarray]
    """Observations after the steps that were asked for, [N, K, ...]."""
    ends: list[bytes]
    """Snapshots where the rows end, if H is 1."""


class Simulators:
    """Processes that each hold one simulator of an environment, and play sequences of actions from snapshots.

    Args:
        env: the environment's configuration.
        discrete: whether actions are one-hot, or of which sizes.
        workers: how many processes; None: one a core.
        complete: whether everything that agents see is wanted, frames too. Else these are not drawn where that can be.
    """

    def __init__(
        self, env: Mapping[str, Any], discrete: Discrete, workers: int | None = None, complete: bool = False
    ) -> None:
        env = plain_config(env)
        if not complete:
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

    def play(self, snapshots: list[bytes], start: np.ndarray, actions: np.ndarray, kept: slice = NOTHING) -> Played:
        """Play actions [N, H, A] (or indices [N, H], [N, H, K]), row n from ``snapshots[start[n]]``."""
        parts = np.array_split(np.arange(len(start)), min(self.workers, len(start)))
        try:
            answers = []
            for part in parts:
                needed, which = np.unique(start[part], return_inverse=True)
                answers.append(self._pool.submit(_play, [snapshots[i] for i in needed], which, actions[part], kept))
            played = [answer.result() for answer in answers]
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that simulates {self.name} for model=simulator died: {sentence(error)}"
            ) from error
        feat, reward, cont = (np.concatenate([part[k] for part in played]) for k in range(3))
        seen = {key: np.concatenate([part.seen[key] for part in played]) for key in played[0].seen}
        return Played(feat, reward, cont, seen, [snapshot for part in played for snapshot in part.ends])


def _start(env: dict[str, Any]) -> None:
    global _simulator
    enter_worker(env)
    _simulator = make(env, 0)


@functools.lru_cache(maxsize=STARTS_KEPT)
def _unpickled(snapshot: bytes) -> dict[str, Any]:
    """Return a start, for everything that is tried from it: restoring copies what it takes over."""
    return pickle.loads(snapshot)


def _play(snapshots: list[bytes], which: np.ndarray, actions: np.ndarray, kept: slice) -> Played:
    starts = [_unpickled(snapshot) for snapshot in snapshots]
    rows = [_play_row(starts[i], row, kept) for i, row in zip(which, actions, strict=True)]
    feat, reward, cont, seen, ends = zip(*rows, strict=True)
    together = {key: np.stack([row[key] for row in seen]) for key in seen[0]}
    return Played(np.stack(feat), np.stack(reward), np.stack(cont), together, [end for row in ends for end in row])


def _play_row(stream: Mapping[str, Any], actions: np.ndarray, kept: slice) -> Played:
    """Play one row. After an episode's end nothing is rewarded, and only a terminal state does not go on."""
    observation, over = _simulator.restore(stream["env"]), stream["pending_reset"]
    feat, shown = [_feature(observation)], []
    reward, cont = np.zeros(len(actions), np.float32), np.ones(len(actions), np.float32)
    for t, action in enumerate(actions):
        if not over:
            observation, gained, terminated, truncated, _ = _simulator.step(action)
            reward[t] = as_reward("the simulator", gained)
            over, cont[t] = terminated or truncated, not terminated
        feat.append(_feature(observation))
        shown.append(observation)
    ends = [pickle.dumps({"env": _simulator.snapshot(), "pending_reset": bool(over)})] * (len(actions) == 1)
    wanted = shown[kept]
    seen = {key: np.stack([step[key] for step in wanted]) for key in observation} if wanted else {}
    return Played(np.stack(feat), reward, cont, seen, ends)


def _feature(observation: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the state where there is one. An oracle's features are for looking at, nothing is learned from them."""
    return observation.get("state", np.zeros(1, np.float32))
