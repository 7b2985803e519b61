"""Values of Gymnasium's spaces, those of a whole episode, read as ``env=gym`` reads one: by its own code."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from worldmodels.envs.gym.actions import Actions, has_bounds
from worldmodels.envs.gym.images import looks_like_image, sides, surely_image
from worldmodels.envs.gym.keys import Keys, Observations
from worldmodels.envs.gym.parts import Parts, parts_of, values_of
from worldmodels.envs.gym.vectors import MOST_NUMBERS, Vectors
from worldmodels.errors import UserError, shown

LEAST_SIDE = 3
"""Sides from which on what may be an image or numbers is read as an image too."""


def acted(source: str, space: spaces.Space, values: Any, count: int) -> tuple[Float32[np.ndarray, "T n"], tuple]:
    """Return actions as rows that ``env=gym`` maps back to them, and notes of what was made of them.

    Numbers without bounds, which it does not take, are left as they are.

    Raises:
        UserError: ``env=gym`` takes no such actions, or a value is not of the space.
    """
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and not has_bounds(space):
        rows = np.asarray(values, np.float32).reshape(count, -1)
        return rows, (f"actions have no bounds ({shown(space)}) and are taken as they are",)
    takes = Actions(source, space)
    notes = (_plain(source, takes.note),) if takes.note else ()
    return np.stack([takes.row(row) for row in _rows(source, parts_of(space), space, values, count)]), notes


def flat(source: str, space: spaces.Space, values: Any, count: int) -> Float32[np.ndarray, "T n"]:
    """Return values as flat numbers: Boxes as they are, choices one-hot, parts in their order."""
    parts = parts_of(space)
    vectors = Vectors(source, parts)
    return np.stack([vectors.read(row) for row in _rows(source, parts, space, values, count)])


class Seen:
    """Reads what was seen: ``pixels`` as ``env.obs=pixels`` has them and ``state`` as ``env.obs=state`` has it.

    Args:
        source: the episode, for messages.
        space: what is seen.
        within: name of the only part of it that is read, with what it holds.

    Raises:
        UserError: neither is there.
    """

    def __init__(self, source: str, space: spaces.Space, within: str = "") -> None:
        self._source, self._space, self._parts = source, space, parts_of(space)
        inside = [(name, part) for name, part in self._parts if not within or name.split(".")[0] == within]
        looks, sure = ([name for name, part in inside if test(part)] for test in (_may_be_image, _must_be_image))
        words = [name for name, part in inside if isinstance(part, spaces.Text)] if len(inside) > 1 else []
        numbers = [name for name, _ in inside if name not in (*sure, *words)]
        if not looks and not numbers:
            raise UserError(f"{source} shows {shown(space)}: nothing of it is read, record numbers or an image.")
        self._pixels = self._of("pixels", Keys(pixels=looks)) if looks else None
        self._state = self._of("state", Keys(state=numbers)) if numbers else None
        vectors = self._state.vectors.note if self._state else ""
        told = [image.note for image in self._pixels.images.values()] if self._pixels else []
        self.notes = tuple(dict.fromkeys(_plain(source, note) for note in (*told, vectors) if note))
        if len(sure) > 1 or (sure and numbers):
            self.notes += (f"frames are {shown(looks)}: the first is 'pixels'",)
        if unsure := [name for name in looks if name not in sure]:
            what = shown(unsure) if unsure != [""] else shown(space)
            self.notes += (f"{what} may be an image or numbers: it is read as both, for env.obs=pixels and =state",)
        if words:
            self.notes += (f"fields that are not read: {shown(words)}",)

    def read(self, values: Any, count: int) -> dict[str, np.ndarray]:
        """Return the columns of an episode with so many rows."""
        rows = []
        for row in _rows(self._source, self._parts, self._space, values, count):
            named = dict(zip([name for name, _ in self._parts], row, strict=True))
            pixels, state = (reads.read_parts(named) if reads else {} for reads in (self._pixels, self._state))
            rows.append({**pixels, **state})
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def _of(self, obs: str, keys: Keys) -> Observations:
        return Observations(self._source, self._space, obs, None, keys)


def _may_be_image(space: spaces.Space) -> bool:
    return looks_like_image(space) and min(sides(space)) >= LEAST_SIDE


def _must_be_image(space: spaces.Space) -> bool:
    """Return whether a space is no numbers: ``env=gym`` would not have it as a state."""
    return _may_be_image(space) and (surely_image(space) or math.prod(space.shape) > MOST_NUMBERS)


def in_order(space: spaces.Space, written: Any) -> spaces.Space:
    """Return a space with the parts of each Dict in the order in which Minari wrote them down; it sorts them by name.

    ``written`` is its own description, or nothing where there is none: then an environment told its spaces.
    """
    if written is None:
        return space
    told = json.loads(written) if isinstance(written, str) else written
    if isinstance(space, spaces.Dict):
        parts = told["subspaces"]
        return spaces.Dict(OrderedDict((key, in_order(space[key], parts[key])) for key in parts))
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([in_order(*pair) for pair in zip(space, told["subspaces"], strict=True)])
    return space


def _rows(source: str, parts: Parts, space: spaces.Space, values: Any, count: int) -> list[list[Any]]:
    """Return the parts of each row. Refuse a part that has another number of rows."""
    columns = list(values_of(source, space, values))
    for (name, _), column in zip(parts, columns, strict=True):
        if len(column) != count:
            raise UserError(
                f"{source}: {name or 'a field'} of {shown(space)} has {len(column)} rows, where {count} are expected."
            )
    return [[column[row] for column in columns] for row in range(count)]


def _plain(source: str, note: str) -> str:
    """Return a note of an environment's without its name and its full stop."""
    return note.removeprefix(f"{source}: ").removesuffix(".")
