"""HDF5 files: V-D4RL's, D4RL's, or one episode a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.data.readers.base import (
    SKILL,
    Reader,
    Recording,
    optional_column,
    recording,
    require_fields,
    require_package,
)
from worldmodels.errors import UserError


class Hdf5Reader(Reader):
    """Reads HDF5 files of three layouts, told apart by their fields."""

    suffixes = (".hdf5", ".h5")

    def read(self, name: str) -> Iterator[Recording]:
        """Read V-D4RL's files, D4RL's, or one episode a file. Their fields tell them apart."""
        path = Path(name)
        h5py = require_package("h5py", "HDF5 files")
        try:
            with h5py.File(path) as file:
                yield from (_d4rl if "observations" in file else _vd4rl)(path, file)
        except OSError as error:
            raise UserError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())}.") from error


def _vd4rl(path: Path, file: Mapping[str, Any]) -> Iterator[Recording]:
    """Cut episodes in succession, ``step_type`` 0 in each first row and 2 in each last.

    Without it there is one episode.
    """
    rows = require_fields(path, file, ("action", "reward"))
    seen = {"pixels": file.get("observation", file.get("pixels")), "state": file.get("state")}
    seen = {key: value for key, value in seen.items() if value is not None}
    for key, value in seen.items():
        if not hasattr(value, "shape"):
            raise UserError(f"{path}: the field that should hold {key} is a group of {sorted(value)}, not an array.")
    if not seen:
        raise UserError(
            f"{path} has no field 'observation' or 'state', only {sorted(file)}: nothing is observed in it."
        )
    count = len(rows["action"])
    step, discount, skill = (optional_column(path, file, name, count) for name in ("step_type", "discount", SKILL))
    first = np.array([0]) if step is None else np.flatnonzero(step == 0)
    if not len(first) or first[0] != 0:
        raise UserError(f"{path}: 'step_type' must be 0 in the first row of each episode, and is not in row 0.")
    for begin, end in zip(first, [*first[1:], count], strict=True):
        part = slice(int(begin), int(end))
        yield recording(
            f"{path}, rows {begin} to {end - 1}",
            {key: np.asarray(value[part]) for key, value in seen.items()},
            np.asarray(rows["action"][part]),
            np.asarray(rows["reward"][part]),
            discount is not None and float(discount[end - 1]) == 0,
            None if skill is None else skill[part],
            finished=step is None or int(step[end - 1]) == 2,
        )


def _d4rl(path: Path, file: Mapping[str, Any]) -> Iterator[Recording]:
    """Flat arrays in which ``actions[t]`` leads on from ``observations[t]`` and earns ``rewards[t]``.

    An episode ends with ``terminals`` or ``timeouts``. In files without the second it also ends where a row does not
    begin where the one before led. Where its last action led is in ``next_observations``. In files without those, that
    action and its reward are left out, and so is the end.
    """
    rows = require_fields(path, file, ("observations", "actions", "rewards"))
    rows = {key: np.asarray(value) for key, value in rows.items()}
    count = len(rows["observations"])
    led = optional_column(path, file, "next_observations", count, flat=False)
    terminal, timeout = (optional_column(path, file, name, count) for name in ("terminals", "timeouts"))
    if terminal is None or (timeout is None and led is None):
        raise UserError(
            f"{path} has no field {'terminals' if terminal is None else 'timeouts'!r}, only {sorted(file)}: it does "
            "not say where episodes end."
        )
    if timeout is None:
        same = (led[:-1] == rows["observations"][1:]).reshape(count - 1, -1).all(1)
        timeout = np.append(~same, False)
    over = terminal.astype(bool) | timeout.astype(bool)
    stops = sorted({*(np.flatnonzero(over) + 1).tolist(), count})
    for begin, end in zip([0, *stops], stops, strict=False):
        seen, action, reward = (rows[key][begin:end] for key in ("observations", "actions", "rewards"))
        if led is not None:
            seen = np.concatenate([seen, led[end - 1 : end]])
        else:
            action, reward = action[:-1], reward[:-1]
        key = "pixels" if seen.dtype == np.uint8 and seen.ndim == 4 else "state"
        yield recording(
            f"{path}, rows {begin} to {end - 1}",
            {key: seen},
            np.concatenate([np.zeros_like(rows["actions"][:1]), action]),
            np.concatenate([[0.0], np.ravel(reward)]),
            led is not None and bool(terminal[end - 1]),
            finished=bool(over[end - 1]),
        )
