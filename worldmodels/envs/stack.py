"""The newest frames of an episode as one observation, for models that remember nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import gymnasium
import numpy as np

from worldmodels.common.columns import GOAL_PREFIX, PIXELS, cameras
from worldmodels.common.options import AtLeast, checked
from worldmodels.errors import OptionError

SEEN = "stacked frames"
"""Key of a snapshot's stack. Those of further cameras have their names behind it."""


class FrameStack(gymnasium.Wrapper):
    """Images become [3 * frames, S, S], the newest frame last. Before an episode's first, that one is repeated.

    As published for TD-MPC2 from pixels: one frame does not show velocities.
    """

    def __init__(self, env: gymnasium.Env, frames: int) -> None:
        super().__init__(env)
        shown = env.observation_space.spaces
        self._seen = {key: np.zeros((frames, *shown[key].shape), np.uint8) for key in cameras(shown)}
        if not self._seen:
            raise OptionError("stack", frames, "stacks frames, and there are none with obs=state: leave it at 1")
        self._frames = frames
        images = [key for key in shown if key.removeprefix(GOAL_PREFIX) in self._seen]
        shapes = {key: (frames * shown[key].shape[0], *shown[key].shape[1:]) for key in images}
        stacks = {key: gymnasium.spaces.Box(0, 255, shape, np.uint8) for key, shape in shapes.items()}
        self.observation_space = gymnasium.spaces.Dict({**shown, **stacks})

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Begin an episode: its first frame, repeated."""
        observation, info = self.env.reset(seed=seed, options=options)
        for key, seen in self._seen.items():
            seen[:] = observation[key]
        return self._stacked(observation), info

    def step(self, action: np.ndarray | int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Step, and put the new frame behind the others."""
        observation, *outcome = self.env.step(action)
        self._seen = {key: np.concatenate([seen[1:], observation[key][None]]) for key, seen in self._seen.items()}
        return self._stacked(observation), *outcome

    def snapshot(self) -> dict[str, Any]:
        """Return the frames that are still seen, and the environment's snapshot.

        That alone needs no stack to be restored.
        """
        stacks = {SEEN + key.removeprefix(PIXELS): seen.copy() for key, seen in self._seen.items()}
        return {**self.env.snapshot(), **stacks}

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        observation = self.env.restore(snapshot)
        self._seen = {key: np.array(snapshot[SEEN + key.removeprefix(PIXELS)], np.uint8) for key in self._seen}
        return self._stacked(observation)

    def _stacked(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Stack the frames. A goal stands still, so its stack is its one frame repeated."""
        stacks = {key: seen.reshape(-1, *seen.shape[2:]).copy() for key, seen in self._seen.items()}
        goals = {GOAL_PREFIX + key for key in self._seen} & observation.keys()
        return {**observation, **stacks, **{key: np.tile(observation[key], (self._frames, 1, 1)) for key in goals}}


@checked
def stacked(
    env: gymnasium.Env, stack: Annotated[int, AtLeast(1), "newest frames in one observation; TD-MPC2: 3"] = 1
) -> gymnasium.Env:
    """Show so many frames in an observation. Return ``env`` itself for 1."""
    return env if stack == 1 else FrameStack(env, stack)
