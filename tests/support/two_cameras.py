"""Environments of a stranger's: two cameras, a vector, a choice and words in one Dict; several choices at once."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces


class Robot(gymnasium.Env):
    """A dot on a line, seen by a camera in front and, closer, by one at the wrist."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "front": spaces.Box(0, 255, (24, 32, 3), np.uint8),
                "wrist": spaces.Box(0.0, 1.0, (3, 16, 16), np.float32),
                "pose": spaces.Box(-1, 1, (1,), np.float32),
                "gripper": spaces.Discrete(2),
                "task": spaces.Text(20),
            }
        )
        self.action_space = spaces.Box(-0.5, 2.0, (1,), np.float32)
        self._at, self._steps = 0.0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at, self._steps = float(self.np_random.uniform(-1, 1)), 0
        return self._seen(), {}

    def step(self, action):
        self._at = float(np.clip(self._at + 0.1 * action[0], -1, 1))
        self._steps += 1
        return self._seen(), np.array([-abs(self._at)]), False, self._steps >= 25, {"is_success": abs(self._at) < 0.1}

    def _seen(self):
        front, wrist = np.zeros((24, 32, 3), np.uint8), np.zeros((3, 16, 16), np.float32)
        front[10:14, int(15 + 14 * self._at) :][:, :3] = 255
        wrist[:, :, int(8 + 7 * self._at)] = 1.0
        pose = np.array([self._at], np.float32)
        return {"front": front, "wrist": wrist, "pose": pose, "gripper": int(self._at > 0), "task": "go to the middle"}


class Buttons(gymnasium.Env):
    """A colour is shown, and a lever and two buttons belong to it: a point for each that is set right."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self) -> None:
        self.observation_space = spaces.Discrete(3)
        self.action_space = spaces.Dict({"lever": spaces.Discrete(3), "buttons": spaces.MultiBinary(2)})
        self._colour, self._steps = 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._colour, self._steps = int(self.np_random.integers(3)), 0
        return self._colour, {}

    def step(self, action):
        right = [action["lever"] == self._colour, *(action["buttons"] == [self._colour > 0, self._colour > 1])]
        self._colour = int(self.np_random.integers(3))
        self._steps += 1
        return self._colour, float(sum(right)), False, self._steps >= 25, {}


gymnasium.register("Buttons-v0", entry_point=Buttons)
gymnasium.register("Robot-v0", entry_point=Robot)
