"""Readers of recordings: one file a format, each a `base.Reader`. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from worldmodels.data.readers.base import MAC, Reader, Recording
from worldmodels.data.readers.hdf5 import Hdf5Reader
from worldmodels.data.readers.lerobot import LeRobotReader
from worldmodels.data.readers.minari import MinariReader
from worldmodels.data.readers.npz import NpzReader
from worldmodels.data.readers.ogbench import OGBenchReader
from worldmodels.data.readers.own import OwnReader
from worldmodels.errors import UserError

READERS: tuple[Reader, ...] = (
    MinariReader(),
    OwnReader(),
    LeRobotReader(),
    Hdf5Reader(),
    OGBenchReader(),
    NpzReader(),
)
"""The formats known here, asked in this order."""


def read(name: str, readers: Sequence[Reader] = READERS) -> Iterator[Recording]:
    """Yield the episodes of a dataset. Raise ``UserError``, naming file and field, where it cannot be read."""
    for reader in readers:
        if reader.accepts(name):
            return reader.read(name)
    path = Path(name)
    if not path.exists():
        raise UserError(
            f"data={name} does not exist: give a folder that scripts/collect.py made, one of LeRobot's, HDF5 or npz "
            "files, or minari:<id>."
        )
    files = sorted([path] if path.is_file() else path.iterdir())
    read_by = {file: reader for file in files if not file.name.startswith(MAC) and (reader := _for(file, readers))}
    if not read_by:
        endings = sorted({suffix for reader in readers for suffix in reader.suffixes})
        raise UserError(
            f"data={name} has a layout that is not known: it holds neither a replay (replay.json) nor files ending in "
            f"{', '.join(endings)}."
        )
    return (episode for file, reader in read_by.items() for episode in reader.read(str(file)))


def _for(file: Path, readers: Sequence[Reader]) -> Reader | None:
    """The first reader of a file, by its ending and what it holds."""
    return next((reader for reader in readers if file.suffix in reader.suffixes and reader.knows(file)), None)
