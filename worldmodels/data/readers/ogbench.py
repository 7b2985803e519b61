"""OGBench's npz files: trajectories without rewards, or relabelled with rewards and masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from typing_extensions import override

from worldmodels.data.readers.base import SKILL, Reader, Recording, require_fields
from worldmodels.data.readers.ends import TIMEOUT, flag_values
from worldmodels.data.readers.npz import load_npz
from worldmodels.data.readers.rows import departures, unread
from worldmodels.errors import UserError

FIELDS = ("observations", "actions", "terminals", "masks", "rewards", SKILL)
UNREWARDED = "there are no rewards, as in OGBench's files: every reward is 0"


class OGBenchReader(Reader):
    """Reads OGBench's npz files, in which ``terminals`` are ends of trajectories and not of tasks.

    A trajectory's last action led nowhere and is left out, as OGBench does, unless it earned something. ``masks``,
    where there are any, are 0 where the task ended.
    """

    suffixes = (".npz",)

    @override
    def knows(self, path: Path) -> bool:
        try:
            names = {*load_npz(path, ())[1]}
        except UserError:  # the reader behind this one says what is wrong
            return False
        told = names & {*TIMEOUT, "next_observations"}
        return names >= {*FIELDS[:3]} and not told and ("masks" in names or "rewards" not in names)

    def read(self, name: str) -> Iterator[Recording]:
        """Read the trajectories of one file."""
        path = Path(name)
        columns, names = load_npz(path, FIELDS)
        rows = require_fields(path, columns, FIELDS[:3], names)
        count = len(rows["observations"])
        ends = flag_values(path, columns, "terminals", count).astype(bool)
        masks = flag_values(path, columns, "masks", count)
        notes = unread(names, FIELDS)
        if "rewards" not in columns:
            notes += (UNREWARDED,)
        cut = {"timeouts": ends, "terminals": ends & (False if masks is None else masks == 0)}
        yield from departures(path, {"rewards": np.zeros(count, np.float32), **columns, **cut}, notes)
