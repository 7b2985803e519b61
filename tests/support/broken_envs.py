"""Environments that do what environments must not do, for the tests of what is said then."""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from worldmodels.envs.toy import Counter


class GaveUp(BaseException):
    """Is no Exception, as those of some schedulers are not."""


def close_connections() -> None:
    """Break every pipe of this process, but for its standard ones and what watches over its parent."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)


class Broken(Counter):
    """A counter that, from its third step on, fails in the way ``how`` says; only environment ``who`` does."""

    def __init__(self, how: str, who: int = 1, seed: int = 0, index: int = 0) -> None:
        super().__init__(lengths=[20], action_dim=1, seed=seed, index=index)
        self._how = how if index == who else ""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self._step < 3:
            return observation, reward, terminated, truncated, info
        if self._how == "raise":
            raise ValueError("the gripper is gone")
        if self._how == "exit":
            os._exit(7)
        if self._how == "sys.exit":
            sys.exit(3)
        if self._how == "interrupt":
            raise KeyboardInterrupt
        if self._how == "give up":
            raise GaveUp("the gripper is gone")
        if self._how == "slow exit":
            close_connections()
            time.sleep(0.9)
            os._exit(5)
        if self._how == "huge reward":
            reward = 1e300
        if self._how == "hang":
            time.sleep(600)
        if self._how == "nan observation":
            observation = {"state": np.full_like(observation["state"], np.nan)}
        if self._how == "nan reward":
            reward = float("nan")
        if self._how == "shape":
            observation = {"state": observation["state"][:-1]}
        return observation, reward, terminated, truncated, info


class Unbuildable(Counter):
    """Fails while it is built."""

    def __init__(self, seed: int = 0) -> None:
        raise RuntimeError("no such asset")


class Leaves(Counter):
    """Ends the process while it is built."""

    def __init__(self, seed: int = 0) -> None:
        sys.exit(4)


class HangsInBuilding(Counter):
    """Never comes into being."""

    def __init__(self, seed: int = 0) -> None:
        time.sleep(600)


class SlowToRestore(Counter):
    """Replays for longer than anyone waits."""

    def restore(self, snapshot):
        time.sleep(600)


class Forgetful(Counter):
    """Its snapshot leaves the step out."""

    def snapshot(self):
        return {**super().snapshot(), "step": 0}


class Unseeded(Counter):
    """Draws from a generator that no seed controls."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        observation["state"][0] = float(np.random.default_rng().standard_normal())
        return observation, info


class Canvas(Counter):
    """Has a frame to draw: blank, or never done."""

    def __init__(self, how: str, seed: int = 0) -> None:
        super().__init__(obs="pixels", seed=seed)
        self._how = how

    def render(self):
        if self._how == "hang":
            time.sleep(600)
        return np.zeros((16, 16, 3), np.uint8)

    def renderer(self) -> str:
        return "llvmpipe (test)"


class Stubborn(Counter):
    """Never comes back from a step, in which it writes its process id to a file."""

    def __init__(self, path: str, seed: int = 0, index: int = 0) -> None:
        super().__init__(seed=seed, index=index)
        self._file = Path(path, f"pid{index}")

    def step(self, action):
        self._file.write_text(str(os.getpid()))
        time.sleep(600)


class Mute(Counter):
    """Cannot save its state."""

    def snapshot(self):
        raise NotImplementedError("there is no way to save the weather")
