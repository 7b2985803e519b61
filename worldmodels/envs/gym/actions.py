"""Actions of any Gymnasium space behind the two that planners know: numbers in [-1, 1], or one choice of several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.envs import base
from worldmodels.envs.gym.parts import COUNTED, listed, parts_of, put_together, sizes, starts
from worldmodels.errors import UserError, shown

MOST_COMBINED = 256
"""Choices that several counted parts may make together."""
UNBOUNDED = 1e9
"""Bounds as large as this stand for none: libraries write 1e38 and the like."""


class Actions:
    """What an environment takes, as one ``space`` of this project's. ``note`` says what was made of it, where much was.

    Raise :class:`UserError` for numbers without bounds, for too many choices and for other spaces.
    """

    def __init__(self, name: str, space: spaces.Space) -> None:
        self.name, self._inner = name, space
        self._parts = parts_of(space)
        for part, inner in self._parts:
            self._require_known(part, inner)
        self._dims = [len(sizes(part)) if isinstance(part, COUNTED) else int(np.prod(part.shape)) for part in self._all]
        if not sum(self._dims):
            raise UserError(f"{name} takes actions from {shown(space)}, in which there is nothing to choose.")
        counted = [isinstance(part, COUNTED) for part in self._all]
        self._sizes = [size for part in self._all if isinstance(part, COUNTED) for size in sizes(part)]
        self.discrete = all(counted)
        self.note = ""
        if self.discrete:
            self.space: spaces.Space = spaces.Discrete(self._choices())
        else:
            self.space = spaces.Box(-1, 1, (sum(self._dims),), np.float32)
        base.require_width(name, int(self.space.n) if self.discrete else sum(self._dims))
        if len(self._parts) > 1 or not isinstance(space, spaces.Discrete | spaces.Box):
            self.note = self._described()
        elif isinstance(space, spaces.Box) and space.dtype.kind != "f":
            self.note = f"{name}: whole numbers of an action are equal shares of [-1, 1]"

    def inner(self, action: np.ndarray) -> Any:
        """Return what the environment is given for one action: a choice [1], or numbers [A], clamped to [-1, 1]."""
        if self.discrete:
            digits = np.array(np.unravel_index(int(action[0]), self._sizes), np.int64)
        else:
            digits = np.asarray(action, np.float64)
        pieces = iter(np.split(digits, np.cumsum(self._dims)[:-1]))
        return put_together(self._inner, (self._value(part, next(pieces)) for part in self._all))

    @property
    def _all(self) -> list[spaces.Space]:
        return [space for _, space in self._parts]

    def _value(self, part: spaces.Space, given: np.ndarray) -> Any:
        if isinstance(part, COUNTED):
            count = given if self.discrete else _share(given, np.array(sizes(part)))
            value = starts(part) + count
            return int(value[0]) if isinstance(part, spaces.Discrete) else value.astype(part.dtype).reshape(part.shape)
        low, high = np.ravel(part.low).astype(np.float64), np.ravel(part.high).astype(np.float64)
        value = base.rescale(given, low, high) if part.dtype.kind == "f" else low + _share(given, high - low + 1)
        return value.astype(part.dtype).reshape(part.shape)

    def _require_known(self, part: str, space: spaces.Space) -> None:
        where = f"{part} of its actions" if part else "actions"
        if isinstance(space, COUNTED):
            return
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"{self.name} takes {where} from {shown(space)}; only Box, Discrete, MultiDiscrete and MultiBinary, "
                "and Dict and Tuple of them, are supported."
            )
        bounds = np.abs([space.low, space.high]).astype(np.float64)
        if not space.is_bounded() or (bounds.size and bounds.max() >= UNBOUNDED):
            raise UserError(
                f"{self.name} has {where} without bounds ({shown(space)}), so [-1, 1] cannot be mapped to them: give "
                "them bounds in its action_space."
            )

    def _choices(self) -> int:
        total = math.prod(self._sizes)
        if len(self._sizes) > 1 and total > MOST_COMBINED:
            raise UserError(
                f"{self.name} takes actions of {len(self._sizes)} parts with {shown(self._sizes)} choices: together "
                f"{total:,}, and at most {MOST_COMBINED} can be one choice: leave some out with a wrapper."
            )
        return total

    def _described(self) -> str:
        if self.discrete:
            about = ["x".join(map(str, sizes(part))) for part in self._all]
            return f"{self.name}: {listed(self._parts, about)} together are one of {self.space.n} actions"
        about = [f"{dim} of {type(part).__name__}" for part, dim in zip(self._all, self._dims, strict=True)]
        return f"{self.name}: the {sum(self._dims)} numbers of an action are, in order, {listed(self._parts, about)}"


def _share(given: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return which of ``count`` equal shares of [-1, 1] each number lies in, from 0."""
    unit = (np.clip(given, -1, 1) + 1) / 2
    return np.minimum(np.floor(unit * count), count - 1).astype(np.int64)
