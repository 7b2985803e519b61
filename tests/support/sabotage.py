"""A counter that fails in mid-training, for as long as a file lies in its way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from worldmodels.envs.toy import Counter


class Sabotaged(Counter):
    """Fails in the way that the content of ``file`` says, from step ``after`` of environment 1's life on."""

    def __init__(self, file: str, after: int = 45, seed: int = 0, index: int = 0, **options) -> None:
        super().__init__(seed=seed, index=index, **options)
        self._file, self._after, self._lived = Path(file), after, 0

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self._lived += 1
        if self._index == 1 and self._lived > self._after and self._file.exists():
            how = self._file.read_text()
            if how == "nan":
                observation["state"] = np.full_like(observation["state"], np.nan)
            elif how == "exit":
                os._exit(7)
            elif how == "hang":
                time.sleep(600)
        return observation, reward, terminated, truncated, info


class Repeating(Counter):
    """Says that a step took three control steps, and an episode's last one two."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"frames": 2 if terminated or truncated else 3}


class Fleeting(Counter):
    """Cannot be put back where it was, or ``dies`` of it; unless it ``saves``, it cannot say where that is either."""

    def __init__(self, saves: bool = False, dies: bool = False, seed: int = 0, index: int = 0, **options) -> None:
        super().__init__(seed=seed, index=index, **options)
        self._saves, self._dies = saves, dies

    def snapshot(self):
        if not self._saves:
            raise RuntimeError("no snapshot")
        return super().snapshot()

    def restore(self, snapshot):
        if self._dies:
            os._exit(7)
        raise RuntimeError("no way back")
