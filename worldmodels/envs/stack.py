"""The newest frames of an episode as one observation, for models that remember nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import gymnasium
import numpy as np

from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.common.options import AtLeast, checked
from worldmodels.errors import OptionError

GOAL_PIXELS = GOAL_PREFIX + "pixels"
SEEN = "stacked frames"


class FrameStack(gymnasium.Wrapper):
    """``pixels`` become [3 * frames, S, S], the newest frame last. Before an episode's first, that one is repeated.

    As published for TD-MPC2 from pixels: one frame does not show velocities.
    """

    def __init__(self, env: gymnasium.Env, frames: int) -> None:
        super().__init__(env)
        if "pixels" not in env.observation_space.spaces:
            raise OptionError("stack", frames, "stacks frames, and there are none with obs=state: leave it at 1")
        self._seen = np.zeros((frames, *env.observation_space["pixels"].shape), np.uint8)
        shape = (frames * self._seen.shape[1], *self._seen.shape[2:])
        pixels = {
            key: gymnasium.spaces.Box(0, 255, shape, np.uint8) for key in env.observation_space if "pixels" in key
        }
        self.observation_space = gymnasium.spaces.Dict({**env.observation_space.spaces, **pixels})

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Begin an episode: its first frame, repeated."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._seen[:] = observation["pixels"]
        return self._stacked(observation), info

    def step(self, action: np.ndarray | int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Step, and put the new frame behind the others."""
        observation, *outcome = self.env.step(action)
        self._seen = np.concatenate([self._seen[1:], observation["pixels"][None]])
        return self._stacked(observation), *outcome

    def snapshot(self) -> dict[str, Any]:
        """Return the frames that are still seen, and the environment's snapshot.

        That alone needs no stack to be restored.
        """
        return {**self.env.snapshot(), SEEN: self._seen.copy()}

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        observation = self.env.restore(snapshot)
        self._seen = np.array(snapshot[SEEN], np.uint8)
        return self._stacked(observation)

    def _stacked(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Stack the frames. A goal stands still, so its stack is its one frame repeated."""
        stacks = {"pixels": self._seen.reshape(-1, *self._seen.shape[2:]).copy()}
        if GOAL_PIXELS in observation:
            stacks[GOAL_PIXELS] = np.tile(observation[GOAL_PIXELS], (len(self._seen), 1, 1))
        return {**observation, **stacks}


@checked
def stacked(
    env: gymnasium.Env, stack: Annotated[int, AtLeast(1), "newest frames in one observation; TD-MPC2: 3"] = 1
) -> gymnasium.Env:
    """Show so many frames in an observation. Return ``env`` itself for 1."""
    return env if stack == 1 else FrameStack(env, stack)
