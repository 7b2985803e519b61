"""The contract of readers, and one recorded episode, whoever recorded it: its rows, checked."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from worldmodels.common.columns import shows_frames
from worldmodels.errors import UserError, shown

SKILL = "skill"
"""Column of a recording that tells which of several skills was shown; there need not be one."""

MAC = "._"
"""Beginning of the names of files that a Mac writes beside others."""
BESIDE = 32
"""Files beside one that are asked for what it does not say, at most."""


@dataclass(frozen=True)
class Recording:
    """One episode as rows: ``action[t]`` and ``reward[t]`` led into ``t``. Both are zero in row 0."""

    source: str
    """File, and where in it, for messages."""
    observations: dict[str, np.ndarray]
    """``pixels`` uint8 [T, C, H, W] and/or ``state`` [T, n]."""
    action: np.ndarray
    reward: np.ndarray
    terminal: bool
    """Whether it ended for good in its last row, not by a time limit."""
    skill: np.ndarray | None = None
    """Which of several skills each row shows, int64 [T], where that was recorded."""
    finished: bool = True
    """Whether it ended in its last row at all, or the recording did."""
    notes: tuple[str, ...] = ()
    """What was found otherwise than one may expect, and what was done about it: sentences without their full stop."""


class Reader(ABC):
    """Reads the recordings of one format, an episode at a time."""

    suffixes: tuple[str, ...] = ()
    """Endings of the files that it reads; a folder of such files is read file by file."""

    def accepts(self, name: str) -> bool:
        """Return whether ``name``, which is not a file or a folder of files, is a dataset of this format."""
        return False

    def knows(self, path: Path) -> bool:
        """Return whether a file with one of the ``suffixes`` is of this format, where several share an ending."""
        return True

    @abstractmethod
    def read(self, name: str) -> Iterator[Recording]:
        """Yield the episodes of a dataset, or of one file.

        Raises:
            UserError: naming file and field, where something cannot be read.
        """


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """Frames [T, C, H, W] at ``size``, by area."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    frames = [cv2.resize(frame.transpose(1, 2, 0), (size, size), interpolation=cv2.INTER_AREA) for frame in pixels]
    return np.stack([frame.reshape(size, size, -1).transpose(2, 0, 1) for frame in frames])


def recording(
    source: str,
    observations: dict[str, np.ndarray],
    action: np.ndarray,
    reward: np.ndarray,
    terminal: bool,
    skill: np.ndarray | None = None,
    finished: bool = True,
    notes: tuple[str, ...] = (),
) -> Recording:
    """Checked: as many rows of everything, of the right shapes, and nothing but numbers.

    What fills row 0 of action and reward, zero or not a number, is replaced by zero. An action of one number may be
    [T] or [T, 1].
    """
    for key, value in observations.items():
        require_layout(source, key, value)
    action, reward = np.array(action), np.array(reward)
    if reward.size != len(reward):
        raise UserError(f"{source}: 'reward' is {reward.dtype} {reward.shape}, where a number a row is expected.")
    rows = {"action": action, "reward": reward.reshape(-1), **observations}
    if skill is not None:
        rows[SKILL] = whole(source, SKILL, np.ravel(skill))
    lengths = {key: len(value) for key, value in rows.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{source}: fields have different numbers of rows: {lengths}.")
    for key in ("action", "reward"):
        require_kind(source, key, rows[key])
        rows[key][:1] = 0
    numbers = {key: single(source, key, value) for key, value in rows.items() if key != SKILL}
    action = numbers.pop("action")
    action = action[:, None] if action.ndim == 1 and rows["action"].dtype.kind == "f" else action
    require_actions(source, action, rows["action"].dtype)
    reward = numbers.pop("reward")
    return Recording(source, numbers, action, reward, terminal, rows.get(SKILL), finished, notes)


def single(source: str, key: str, value: np.ndarray) -> np.ndarray:
    """Return a field in float32, frames as they are. Refuse what is not a finite number, naming its first row."""
    if shows_frames(key):
        return value
    require_kind(source, key, value)
    with np.errstate(over="ignore"):  # beyond float32 is told below
        value = value.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(1))
    if len(bad):
        raise UserError(f"{source}: field {key!r} holds numbers that are not finite, first in its row {bad[0]}.")
    return value


def require_kind(source: object, key: str, value: np.ndarray) -> None:
    """Refuse what is neither numbers nor true and false."""
    if value.dtype.kind not in "biuf":
        raise UserError(f"{source}: field {key!r} is of type {value.dtype}, where numbers are expected.")


def require_actions(source: str, action: np.ndarray, dtype: np.dtype | None = None) -> None:
    """Refuse what is not rows of one number or more. ``dtype`` is what they were recorded in."""
    if action.ndim != 2 or not action.size:
        kind = f"{dtype or action.dtype} {action.shape}"
        raise UserError(f"{source}: 'action' is {kind}, where numbers [T, n] are expected: write choices one-hot.")


def whole(source: object, key: str, value: np.ndarray) -> np.ndarray:
    """Return whole numbers as int64. Refuse others."""
    require_kind(source, key, value)
    if not (np.isfinite(value) & (value == np.floor(value))).all():
        raise UserError(f"{source}: field {key!r} holds numbers that are not whole ones.")
    return value.astype(np.int64)


def require_layout(source: str, key: str, value: np.ndarray) -> None:
    """Refuse what is not uint8 frames [T, C, H, W], or numbers [T, n]."""
    kind = f"{value.dtype} {value.shape}"
    if not shows_frames(key):
        if value.ndim != 2 or not value.shape[1]:
            raise UserError(f"{source}: {key!r} is {kind}, where numbers [T, n] are expected.")
        return
    if value.dtype != np.uint8 or value.ndim != 4 or value.shape[1] % 3 or value.shape[1] > min(value.shape[2:]):
        raise UserError(
            f"{source}: {key!r} is {kind}, where uint8 frames of 3 channels are expected, or a multiple of 3: "
            "'image' as [T, H, W, C], 'observation' and 'pixels' as [T, C, H, W]."
        )


def require_fields(
    path: Path, file: Mapping[str, Any], wanted: tuple[str, ...], names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return the wanted fields, each with as many rows as the first. Refuse a file that lacks one or has no rows."""
    for name in wanted:
        if name not in file:
            raise UserError(
                f"{path} has no field {name!r}, only {shown(sorted(names or file))}: its layout is not known here."
            )
        require_rows(path, name, file[name])
    counts = {name: file[name].shape[0] for name in wanted}
    if len(set(counts.values())) > 1:
        raise UserError(f"{path}: fields have different numbers of rows: {counts}.")
    return {name: file[name] for name in wanted}


def require_rows(path: Path, name: str, value: Any, count: int | None = None) -> None:
    """Refuse a field that has no rows, or not ``count``: a group, nothing, a single value."""
    shape = getattr(value, "shape", None)
    if not shape:
        what = "a single value" if shape == () else "empty" if hasattr(value, "dtype") else "no array but a group"
        raise UserError(f"{path}: field {name!r} is {what}, where {count or 'several'} rows are expected.")
    if not shape[0]:
        raise UserError(f"{path}: field {name!r} has no rows.")
    if count is not None and shape[0] != count:
        raise UserError(f"{path}: field {name!r} is of shape {tuple(shape)}, where {count} rows are expected.")


def optional_column(path: Path, file: Mapping[str, Any], name: str, count: int, flat: bool = True) -> np.ndarray | None:
    """Return a field that may be there or not, then with as many rows as there are. ``flat``: a number each."""
    if name not in file:
        return None
    value = file[name]
    require_rows(path, name, value, count)
    if flat and math.prod(value.shape) != count:
        raise UserError(f"{path}: field {name!r} is of shape {value.shape}, where {count} rows of one are expected.")
    return np.asarray(value).reshape(-1) if flat else np.asarray(value)


def as_frames(value: np.ndarray) -> np.ndarray:
    """Return uint8 frames [T, H, W] or [T, H, W, C] as [T, C, H, W], grey ones with three equal channels."""
    value = value[..., None] if value.ndim == 3 else value
    if value.ndim != 4:
        return value
    value = np.repeat(value, 3, axis=-1) if value.shape[-1] == 1 else value
    return value.transpose(0, 3, 1, 2)


def files_beside(path: Path) -> list[Path]:
    """Return some other files with its ending in its folder. Files that a Mac adds (``._*``) are none."""
    others = (other for other in sorted(path.parent.glob(f"*{path.suffix}")) if not other.name.startswith(MAC))
    return [other for other in others if other != path][:BESIDE]


def require_package(name: str, what: str, extra: str = "datasets") -> Any:
    """Import an optional package, or say in one sentence how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'{what} take another package: pip install "worldmodels[{extra}]".') from error
