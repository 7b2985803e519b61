"""A room seen, a long hallway, a choice that only the room can tell: what world models remember, in tiny pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.common.options import AtLeast, checked
from worldmodels.envs import base

SHOWN = 2
"""Steps that the room is shown at an episode's beginning, the first frame included."""
STRIPES = 4
"""Period of the hallway's stripes, in pixels."""
COLORS = np.array([[220, 60, 60], [60, 200, 60]], np.uint8)
"""Colours of a room's quarters: red is 0, green is 1."""
GREY, DARK, WALL = 128, 30, 90


class Recall(gymnasium.Env):
    """One episode, frame by frame::

        step      0 ... SHOWN-1   | SHOWN ... SHOWN+delay-1 |  doors  |  door   |  room
        pixels    room            | hallway                 |  doors  |  dark   |  room again
        reward    0               | 0                       |  0      |  0 or 1 |  0

    The room has four quarters of two colours, drawn anew for each episode. In the hallway, actions (0 or 1) move
    stripes to the left or right. The action taken at the doors earns 1 in ``door`` if it is the colour of the room's
    first quarter; the frame there is dark, whatever happened. Then the room is seen again.

    Without ``cue`` the room is grey when the episode begins, so nothing that follows can be known: a control.
    """

    @checked
    def __init__(
        self,
        delay: Annotated[int, AtLeast(1), "steps of the hallway"] = 10,
        cue: Annotated[bool, "false: the room is not shown at first, a control"] = True,
        size: base.Size = 16,
        seed: base.Seed = 0,
    ) -> None:
        self.delay, self._cue, self._size = delay, cue, size
        self._random = np.random.RandomState(seed)
        self._room, self._place, self._step = np.zeros(4, np.int64), 0, 0
        self.doors = SHOWN + delay
        self.observation_space = base.observation_space("pixels", size, 0)
        self.action_space = spaces.Discrete(2)

    @staticmethod
    def length(delay: int) -> int:
        """Frames of an episode."""
        return SHOWN + delay + 3

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed)
        self._room, self._step = self._random.randint(2, size=4), 0
        self._place = int(self._random.randint(STRIPES))
        return self._observation(), {"frames": 0}

    def step(self, action: int | np.integer) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Walk on. The place says what an action means."""
        chosen = self._step == self.doors
        self._step += 1
        self._place = (self._place + (1 if int(action) else -1)) % STRIPES
        reward = float(chosen and int(action) == self._room[0])
        return self._observation(), reward, False, self._step == self.doors + 2, {"frames": 1}

    def snapshot(self) -> dict[str, Any]:
        """Return room, place, step and generator."""
        return {
            "room": self._room.copy(),
            "place": self._place,
            "step": self._step,
            "random": base.pack_random(self._random),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        self._room = np.array(snapshot["room"], np.int64)
        self._place, self._step = int(snapshot["place"]), int(snapshot["step"])
        base.unpack_random(self._random, snapshot["random"])
        return self._observation()

    def _observation(self) -> dict[str, np.ndarray]:
        image, half = np.full((self._size, self._size, 3), DARK, np.uint8), self._size // 2
        if self._step < SHOWN or self._step == self.doors + 2:
            seen = self._cue or self._step >= SHOWN
            colors = COLORS[self._room] if seen else np.full((4, 3), GREY, np.uint8)
            image = colors.reshape(2, 2, 3).repeat(half, axis=0).repeat(half, axis=1)
        elif self._step < self.doors:
            image[:, (np.arange(self._size) + self._place) % STRIPES < STRIPES // 2] = WALL
        elif self._step == self.doors:
            image[half:, 1 : half - 1] = image[half:, half + 1 : -1] = GREY
        return {"pixels": np.ascontiguousarray(image.transpose(2, 0, 1))}
