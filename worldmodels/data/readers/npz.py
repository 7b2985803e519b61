"""Npz files: Dreamer's, of one episode or several, and such with D4RL's fields."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from worldmodels.data.readers.base import Reader, Recording, files_beside
from worldmodels.data.readers.ends import FIRST, STEP_TYPE
from worldmodels.data.readers.rows import KNOWN, read_rows
from worldmodels.errors import UserError, sentence

TORN = (OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError, MemoryError)
"""What NumPy raises for a file that it cannot read."""


class NpzReader(Reader):
    """Reads npz files as DreamerV2 and DreamerV3 write them, V-D4RL's at 64 pixels among them."""

    suffixes = (".npz",)

    def read(self, name: str) -> Iterator[Recording]:
        """Read Dreamer's files, of one episode or several, or such with D4RL's fields."""
        path = Path(name)
        columns, names = load_npz(path, KNOWN)
        yield from read_rows(path, columns, names, lambda: _beside(path))


def _beside(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield of other files what tells which row actions stand in."""
    return (load_npz(other, ("action", *FIRST, STEP_TYPE))[0] for other in files_beside(path))


def load_npz(path: Path, known: Iterable[str]) -> tuple[Mapping[str, Any], list[str]]:
    """Return the known fields of a file, and the names of all. Raise ``UserError`` where it cannot be read."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UserError(f"{path} cannot be read as npz: it holds one array, as .npy files do.")
        with archive:
            return {key: archive[key] for key in known if key in archive}, sorted(archive)
    except TORN as error:
        raise UserError(f"{path} cannot be read as npz: {sentence(error)}") from error
