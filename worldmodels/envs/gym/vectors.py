"""Observations of Gymnasium that are no image as one vector: numbers as they are, choices one-hot, parts in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.envs.gym.parts import Parts, listed, numbers, sizes, starts
from worldmodels.errors import UserError, shown

MOST_NUMBERS = 2**16
"""Numbers of a vector; a choice of more is no vector any more."""


class Vectors:
    """Reads observations as float32 [``dim``]. ``note`` says what was made of them, where it was more than a copy.

    Raise :class:`UserError` for text, graphs and sequences.

    Args:
        name: of the environment.
        parts: name and space of each, none of them made of others.
    """

    def __init__(self, name: str, parts: Parts) -> None:
        self.name, self._parts = name, parts
        dims = [self._dim(part, inner) for part, inner in self._parts]
        self.dim, self.note = sum(dims), ""
        if not 0 < self.dim <= MOST_NUMBERS:
            what = shown([space for _, space in parts])
            raise UserError(
                f"{name} observes {what}, {self.dim:,} numbers as a vector: 1 to {MOST_NUMBERS:,} are allowed."
            )
        if len(parts) > 1 or not isinstance(parts[0][1], spaces.Box) or len(parts[0][1].shape) > 1:
            about = [f"{_kind(inner)}{dim}" for (_, inner), dim in zip(self._parts, dims, strict=True)]
            self.note = f"{name}: state is, in this order, {listed(self._parts, about)}"

    def read(self, values: Sequence[Any]) -> np.ndarray:
        """Return the values of the parts as float32 [dim]."""
        pieces = zip(self._parts, values, strict=True)
        return np.concatenate([self._piece(space, value) for (_, space), value in pieces])

    def _dim(self, part: str, space: spaces.Space) -> int:
        where = f"as {part} " if part else ""
        if isinstance(space, spaces.Box | spaces.MultiBinary):
            return int(np.prod(space.shape))
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return sum(sizes(space))
        raise UserError(
            f"{self.name} observes {where}{shown(space)}; only images, numbers and choices (Box, Discrete, "
            "MultiDiscrete, MultiBinary, and Dict and Tuple of them) are supported."
        )

    def _piece(self, space: spaces.Space, value: Any) -> np.ndarray:
        if isinstance(space, spaces.Box | spaces.MultiBinary):
            return numbers(self.name, value, int(np.prod(space.shape)), space).astype(np.float32)
        each = sizes(space)
        chosen = numbers(self.name, value, len(each), space) - starts(space)
        if not ((chosen >= 0) & (chosen < each) & (chosen == np.floor(chosen))).all():
            raise UserError(f"{self.name} observed {shown(value)}, which is not in {shown(space)} as declared.")
        one_hot = np.zeros(sum(each), np.float32)
        one_hot[np.cumsum([0, *each[:-1]]) + chosen.astype(np.int64)] = 1
        return one_hot


def _kind(space: spaces.Space) -> str:
    return "one-hot " if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else ""
