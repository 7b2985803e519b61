"""Values of Gymnasium's spaces, a batch of them, as flat numbers [T, n]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from worldmodels.errors import UserError, shown


def flat(source: str, space: spaces.Space, value: Any, unit: bool = False) -> Float32[np.ndarray, "T n"]:
    """Return Boxes as numbers, choices one-hot, and what a Dict or a Tuple holds side by side, keys in order.

    ``unit`` rescales bounded Boxes to [-1, 1], as ``env=gym`` maps them back. A number that cannot vary is 0.

    Raises:
        UserError: a space has no such form (Text, Graph, Sequence).
    """
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
        parts = [flat(source, space[key], value[key], unit) for key in sorted(space)]
    elif isinstance(space, spaces.Tuple):
        parts = [flat(source, part, values, unit) for part, values in zip(space, value, strict=True)]
    elif isinstance(space, spaces.Discrete):
        return _one_hot(source, np.asarray(value), int(space.n), int(space.start))
    elif isinstance(space, spaces.MultiDiscrete):
        chosen = np.asarray(value).reshape(len(value), -1)
        counts, starts = np.ravel(space.nvec), np.ravel(space.start)
        parts = [
            _one_hot(source, chosen[:, k], int(n), int(start))
            for k, (n, start) in enumerate(zip(counts, starts, strict=True))
        ]
    elif isinstance(space, spaces.MultiBinary):
        return np.asarray(value, np.float32).reshape(len(value), -1)
    elif isinstance(space, spaces.Box):
        return _box(space, np.asarray(value), unit)
    else:
        raise UserError(f"{source}: the space {shown(space)} has no form of flat numbers, so it cannot be read.")
    return np.concatenate(parts, axis=1)


def _one_hot(source: str, chosen: np.ndarray, count: int, start: int) -> Float32[np.ndarray, "T n"]:
    chosen = chosen.reshape(-1).astype(np.int64) - start
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= count):
        raise UserError(f"{source}: a choice lies outside the {count} of its space.")
    return np.eye(count, dtype=np.float32)[chosen]


def _box(space: spaces.Box, value: np.ndarray, unit: bool) -> Float32[np.ndarray, "T n"]:
    value = value.reshape(len(value), -1)
    if unit and space.is_bounded():
        low, high = np.ravel(space.low).astype(np.float64), np.ravel(space.high).astype(np.float64)
        width = np.where(high == low, 1, high - low)
        value = np.where(high == low, 0, 2 * (value - low) / width - 1)
    return value.astype(np.float32)


def is_image(space: spaces.Space) -> bool:
    """Return whether a space holds uint8 images [H, W], [H, W, 1] or [H, W, C]."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)
