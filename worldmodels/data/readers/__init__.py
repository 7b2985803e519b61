"""Readers of recordings: one file a format, each a `base.Reader`. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from worldmodels.data.readers.base import Reader, Recording
from worldmodels.data.readers.hdf5 import Hdf5Reader
from worldmodels.data.readers.minari import MinariReader
from worldmodels.data.readers.npz import NpzReader
from worldmodels.data.readers.own import OwnReader
from worldmodels.errors import UserError

READERS: tuple[Reader, ...] = (MinariReader(), OwnReader(), Hdf5Reader(), NpzReader())
"""The formats known here, asked in this order."""


def read(name: str, readers: Sequence[Reader] = READERS) -> Iterator[Recording]:
    """Yield the episodes of a dataset. Raise ``UserError``, naming file and field, where it cannot be read."""
    for reader in readers:
        if reader.accepts(name):
            return reader.read(name)
    path = Path(name)
    if not path.exists():
        raise UserError(
            f"data={name} does not exist: give a folder that scripts/collect.py made, HDF5 or npz files, or "
            "minari:<id>."
        )
    by_suffix = {suffix: reader for reader in readers for suffix in reader.suffixes}
    files = sorted(file for file in ([path] if path.is_file() else path.iterdir()) if file.suffix in by_suffix)
    if not files:
        raise UserError(
            f"data={name} has a layout that is not known: it holds neither a replay (replay.json) nor files ending in "
            f"{', '.join(by_suffix)}."
        )
    return (episode for file in files for episode in by_suffix[file.suffix].read(str(file)))
