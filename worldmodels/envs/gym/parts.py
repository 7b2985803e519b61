"""Spaces within spaces: the parts of a Dict or Tuple in order, and values taken apart and put together alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.errors import UserError, literal, shown

Parts = list[tuple[str, spaces.Space]]
"""Name and space of each part; the name is empty where there is but one."""
COUNTED = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces of whole numbers that each stand for a choice."""


def parts_of(space: spaces.Space, name: str = "") -> Parts:
    """List what a space is made of."""
    return (
        [part for key, inner in _inner(space) for part in parts_of(inner, f"{name}.{key}" if name else str(key))]
        if isinstance(space, spaces.Dict | spaces.Tuple)
        else [(name, space)]
    )


def values_of(name: str, space: spaces.Space, value: Any) -> Iterator[Any]:
    """Take a value apart in the order of :func:`parts_of`. Raise :class:`UserError` where a part is missing."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield value
        return
    for key, inner in _inner(space):
        try:
            part = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{name} returned an observation without {key!r}, which it declares.") from error
        yield from values_of(name, inner, part)


def put_together(space: spaces.Space, values: Iterator[Any]) -> Any:
    """Make a value of a space from those of its parts."""
    if isinstance(space, spaces.Dict):
        return {key: put_together(inner, values) for key, inner in _inner(space)}
    if isinstance(space, spaces.Tuple):
        return tuple(put_together(inner, values) for _, inner in _inner(space))
    return next(values)


def sizes(space: spaces.Space) -> list[int]:
    """Return how many choices each whole number of a counted space has."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    return [2] * int(np.prod(space.shape))


def starts(space: spaces.Space) -> np.ndarray:
    """Return the number that each first choice has."""
    return np.ravel(np.broadcast_to(getattr(space, "start", 0), space.shape)).astype(np.int64)


def listed(parts: Parts, what: list[Any]) -> str:
    """Write parts as a sentence holds them, each with something about it."""
    return ", ".join(f"{name} ({about})" if name else str(about) for (name, _), about in zip(parts, what, strict=True))


def numbers(name: str, value: Any, size: int, what: object) -> np.ndarray:
    """Return a value as so many numbers, float64. Raise :class:`UserError` for anything else."""
    try:
        array = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):  # text, a ragged list
        array = np.empty(0)
    if array.size != size or isinstance(value, str):
        raise UserError(f"{name} returned {literal(value)} where it declares {shown(what)}; mend the environment.")
    return array


def _inner(space: spaces.Space) -> list[tuple[Any, spaces.Space]]:
    return list(space.items()) if isinstance(space, spaces.Dict) else list(enumerate(space))
