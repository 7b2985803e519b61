"""Actions of any Gymnasium space behind the two kinds that planners know: numbers in [-1, 1], or choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from worldmodels.envs import base
from worldmodels.envs.gym.parts import COUNTED, listed, numbers, parts_of, put_together, sizes, starts
from worldmodels.errors import UserError, shown

UNBOUNDED = 1e9
"""Bounds as large as this stand for none: libraries write 1e38 and the like."""


class Actions:
    """What an environment takes, as one ``space`` of this project's. ``note`` says what was made of it, where much was.

    Where all is counted the space is a Discrete or a MultiDiscrete, from 0, else numbers in [-1, 1]. Raise
    :class:`UserError` for numbers without bounds, for too many choices and for other spaces.
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
            one = len(self._sizes) == 1
            self.space: spaces.Space = spaces.Discrete(self._sizes[0]) if one else spaces.MultiDiscrete(self._sizes)
        else:
            self.space = spaces.Box(-1, 1, (sum(self._dims),), np.float32)
        base.require_width(name, sum(self._sizes) if self.discrete else sum(self._dims))
        if len(self._parts) > 1 or not isinstance(space, spaces.Discrete | spaces.Box):
            self.note = self._described()
        elif isinstance(space, spaces.Box) and space.dtype.kind != "f":
            self.note = f"{name}: whole numbers of an action are equal shares of [-1, 1]"

    def inner(self, action: np.ndarray) -> Any:
        """Return what the environment is given for one action: choices [K], or numbers [A], clamped to [-1, 1]."""
        digits = np.asarray(action, np.int64 if self.discrete else np.float64)
        pieces = iter(np.split(digits, np.cumsum(self._dims)[:-1]))
        return put_together(self._inner, (self._value(part, next(pieces)) for part in self._all))

    def row(self, values: Sequence[Any]) -> Float32[np.ndarray, " A"]:
        """Return what a row of a recording holds of one action, given by its parts: :meth:`inner` maps it back.

        Choices are one-hot, side by side; among numbers a choice, as a whole number, is the middle of its share of
        [-1, 1], and a number that cannot vary is 0. Numbers outside their bounds lie outside [-1, 1].

        Raises:
            UserError: there is no such choice.
        """
        pieces = [self._told(part, value) for part, value in zip(self._all, values, strict=True)]
        told = np.concatenate(pieces)
        if not self.discrete:
            return told.astype(np.float32)
        row = np.zeros(sum(self._sizes), np.float32)
        row[np.cumsum([0, *self._sizes[:-1]]) + told.astype(np.int64)] = 1
        return row

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

    def _told(self, part: spaces.Space, value: Any) -> np.ndarray:
        """Return the inverse of :meth:`_value`."""
        size = len(sizes(part)) if isinstance(part, COUNTED) else int(np.prod(part.shape))
        given = numbers(self.name, value, size, part)
        if not isinstance(part, COUNTED):
            low, high = np.ravel(part.low).astype(np.float64), np.ravel(part.high).astype(np.float64)
            if part.dtype.kind != "f":
                return _middle(given - low, high - low + 1)
            return np.where(high > low, 2 * (given - low) / np.where(high > low, high - low, 1) - 1, 0)
        count, each = given - starts(part), np.array(sizes(part))
        if not ((count >= 0) & (count < each) & (count == np.floor(count))).all():
            raise UserError(f"{self.name} holds the action {shown(value)}, which is not in {shown(part)} as declared.")
        return count if self.discrete else _middle(count, each)

    def _require_known(self, part: str, space: spaces.Space) -> None:
        where = f"{part} of its actions" if part else "actions"
        if isinstance(space, COUNTED):
            return
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"{self.name} takes {where} from {shown(space)}; only Box, Discrete, MultiDiscrete and MultiBinary, "
                "and Dict and Tuple of them, are supported."
            )
        if not has_bounds(space):
            raise UserError(
                f"{self.name} has {where} without bounds ({shown(space)}), so [-1, 1] cannot be mapped to them: give "
                "them bounds in its action_space."
            )

    def _described(self) -> str:
        if self.discrete:
            about = [f"{' and '.join(map(str, sizes(part)))} choices" for part in self._all]
            return (
                f"{self.name}: the {sum(self._sizes)} numbers of an action are one-hots of {listed(self._parts, about)}"
            )
        about = [f"{dim} of {type(part).__name__}" for part, dim in zip(self._all, self._dims, strict=True)]
        return f"{self.name}: the {sum(self._dims)} numbers of an action are, in order, {listed(self._parts, about)}"


def has_bounds(space: spaces.Box) -> bool:
    """Return whether [-1, 1] can be mapped to a Box: every bound is one, and not :data:`UNBOUNDED`."""
    bounds = np.abs([space.low, space.high]).astype(np.float64)
    return bool(space.is_bounded() and (bounds < UNBOUNDED).all())


def _middle(number: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the middle of the share of [-1, 1] that stands for each number from 0, of ``count``."""
    return (2 * number + 1) / count - 1


def _share(given: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return which of ``count`` equal shares of [-1, 1] each number lies in, from 0."""
    unit = (np.clip(given, -1, 1) + 1) / 2
    return np.minimum(np.floor(unit * count), count - 1).astype(np.int64)
