"""Curves against environment frames (updates, where a recording is learned from), in TensorBoard and in metrics.csv.

A resumed run continues both.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from typing_extensions import override

from worldmodels.common.files import FRAMES, read_rows

RENAMED = {"grad/norm": "gradient/norm", "grad/norm_after_clip": "gradient/clipped"}
"""Columns of metrics.csv to what they were called: for one release they stand there under both names."""

SPEED = "speed/"
"""Beginning of what a run repeated does not repeat, which metrics.csv leaves out."""


class FrameCurves(TensorBoardLogger):
    """TensorBoard's events, whose step is the number of environment frames so far instead of Lightning's batch count.

    Args:
        folder: where the event files go.
        clock: the frames so far.
        resumed_at: frames of the checkpoint that is continued. TensorBoard drops what a killed run logged after them.
    """

    def __init__(self, folder: Path, clock: Callable[[], int], resumed_at: int = 0) -> None:
        super().__init__(folder, name="", version="", purge_step=resumed_at + 1 if resumed_at else None)
        self._clock = clock

    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(without_epoch(metrics), self._clock())

    def save(self) -> None:
        """Flush. Lightning's own also writes a file of hyperparameters, which config.yaml holds already."""
        self.experiment.flush()


class MetricsCsv(Logger):
    """One row a log entry, the frames so far in front. Lightning's own empties the file when a run is resumed.

    Rows of a killed run that are newer than the checkpoint (``resumed_at`` frames) are dropped: they come again.
    """

    def __init__(self, path: Path, clock: Callable[[], int], resumed_at: int = 0) -> None:
        super().__init__()
        self._path, self._clock = path, clock
        self._columns, self._new = [FRAMES], []
        old = [row for row in read_rows(path) if int(row[FRAMES]) <= resumed_at]
        if path.exists():
            self._columns += [key for key in (old[0] if old else {}) if key != FRAMES]
            self._rewrite(old)

    @property
    @override
    def name(self) -> str:
        return "csv"

    @property
    @override
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Write nothing: config.yaml holds them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep a row for the next :meth:`save`."""
        old = {RENAMED[key]: value for key, value in metrics.items() if key in RENAMED}
        kept = {key: value for key, value in without_epoch(metrics).items() if not key.startswith(SPEED)}
        if kept:
            self._new.append({FRAMES: self._clock(), **kept, **old})

    def save(self) -> None:
        """Append the new rows. Where they have new columns, write the file again."""
        if not self._new:
            return
        new, self._new = self._new, []
        columns = sorted({key for row in new for key in row} - set(self._columns))
        self._columns += columns
        if columns:
            self._rewrite([*read_rows(self._path), *new])
        else:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(new)

    @override
    def finalize(self, status: str) -> None:
        self.save()

    def _rewrite(self, rows: list[Mapping[str, Any]]) -> None:
        temporary = self._path.with_suffix(".new")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self._path)


def without_epoch(metrics: Mapping[str, float]) -> dict[str, float]:
    """Lightning adds the number of its one epoch to everything."""
    return {key: value for key, value in metrics.items() if key != "epoch"}
