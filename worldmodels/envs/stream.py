"""One endless stream of episodes, as it runs inside a worker process. Never imports torch, so workers start quickly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import gymnasium
import numpy as np
import psutil
from gymnasium import spaces

from worldmodels.envs import describe, make, rendering
from worldmodels.envs.base import as_reward, frame_rate, require_finite
from worldmodels.envs.successes import UNKNOWN, success_of
from worldmodels.errors import UserError, reason

Spaces = tuple[spaces.Space, spaces.Space]


def enter_worker(env: Mapping[str, Any]) -> None:
    """Prepare a worker process for an environment."""
    depend_on_parent()
    if env.get("obs") == "state":
        rendering.turn_off()


def depend_on_parent() -> None:
    """In a worker process: Ctrl-C is the parent's business, and a parent that dies takes its workers along.

    To its parent the worker is a daemon, which ends with it. To itself it is none, so that it may start processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.current_process().daemon = False
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A thread, because the main one may be deep inside a simulator that never returns.
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    wait([sentinel])
    kill(os.getpid(), itself=False)
    os._exit(1)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Start processes with Ctrl-C blocked, which they inherit: one in their first second would print a traceback."""
    resource_tracker.ensure_running()  # its own start would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill(pid: int, itself: bool = True) -> None:
    """Kill a process with all those that it started. Not terminate: a stopped process never sees SIGTERM."""
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for one in [*([process] if itself else []), *children]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def explain(error: BaseException) -> str:
    """An exception in one line: its message, and for anything but a :class:`UserError` its type and where it arose."""
    return str(error) if isinstance(error, UserError) else f"{reason(error, placed=True)}."


@dataclass(frozen=True)
class StreamFactory:
    """Builds a :class:`Stream` in a worker, and in the parent a stand-in that only tells its spaces."""

    env: dict[str, Any]
    seed: int
    index: int
    spaces: Spaces
    parent: int

    def __call__(self) -> gymnasium.Env:
        """Called by Gymnasium, once in the parent (the stand-in) and once in the worker."""
        stream = Stream(self.env, self.seed, self.index, self.spaces)
        if os.getpid() != self.parent:
            enter_worker(self.env)
        return stream


class Stream(gymnasium.Env):
    """An environment whose step after an episode's end begins the next one, ignoring the action.

    The pending reset is part of the snapshot, which is why Gymnasium's own autoreset is off. The environment is built
    at first use, so that whatever goes wrong in it comes back as a message (``info["error"]``), never as a dead pipe.
    """

    def __init__(self, env: Mapping[str, Any], seed: int, index: int, promised: Spaces) -> None:
        self._config, self._seed, self._index = env, seed, index
        self.observation_space, self.action_space = promised
        self._env: gymnasium.Env | None = None
        self._pending_reset = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Begin a new episode."""
        observation, _, _, _, info = self._guarded(self._begin)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Take one step, or begin the next episode where the last one is over."""
        return self._guarded(lambda: self._begin() if self._pending_reset else self._advance(action))

    def snapshot(self) -> dict[str, Any]:
        """Return ``{"value": ...}`` with the environment's snapshot and the pending reset, or ``{"error": ...}``."""
        return self._answered(lambda: {"env": self._built().snapshot(), "pending_reset": self._pending_reset})

    def restore(self, snapshots: list[dict[str, Any]]) -> dict[str, Any]:
        """Go back to this worker's entry of ``snapshots``."""

        def work() -> None:
            own = snapshots[self._index]
            self._built().restore(own["env"])
            self._pending_reset = own["pending_reset"]

        return self._answered(work)

    def frame_rate(self) -> dict[str, Any]:
        """Return ``{"value": ...}`` with the steps in a second, None where the environment does not tell."""
        return self._answered(lambda: frame_rate(self._built()))

    def close(self) -> None:
        """Close the environment, if it was ever built."""
        if self._env is not None:
            self._env.close()

    def _built(self) -> gymnasium.Env:
        if self._env is None:
            env = make(self._config, self._seed, self._index)
            if (env.observation_space, env.action_space) != (self.observation_space, self.action_space):
                raise UserError("its spaces differ from those of environment 0.")
            self._env = env
        return self._env

    def _begin(self) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        observation, info = self._built().reset()
        self._check(observation, 0.0)
        self._pending_reset = False
        return observation, 0.0, False, False, {"is_first": True, "frames": 0, "success": success_of(info)}

    def _advance(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self._built().step(action)
        reward = as_reward(describe(self._config), reward)
        self._check(observation, reward)
        self._pending_reset = bool(terminated or truncated)
        info = {"is_first": False, "frames": int(info.get("frames", 1)), "success": success_of(info)}
        return observation, reward, bool(terminated), bool(truncated), info

    def _check(self, observation: dict[str, np.ndarray], reward: float) -> None:
        for key, space in self.observation_space.items():
            value = observation.get(key)
            shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
            if shape != space.shape or dtype != space.dtype:
                raise UserError(f"observation {key!r} is {dtype} {shape}, not {space.dtype} {space.shape} as declared.")
        require_finite(describe(self._config), observation, reward)

    def _guarded(self, work: Callable[[], Any]) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        try:
            return work()
        except BaseException as error:  # sys.exit() too, which would end the worker without a word
            blank = {key: np.zeros(space.shape, space.dtype) for key, space in self.observation_space.items()}
            info = {"is_first": False, "frames": 0, "success": UNKNOWN, "error": explain(error)}
            return blank, 0.0, False, False, info

    def _answered(self, work: Callable[[], Any]) -> dict[str, Any]:
        try:
            return {"value": work()}
        except BaseException as error:
            return {"error": explain(error)}
