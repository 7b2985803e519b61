"""HDF5 files: V-D4RL's, Dreamer's, D4RL's, or one episode a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodels.data.readers.base import Reader, Recording, files_beside, require_package
from worldmodels.data.readers.rows import KNOWN, read_rows
from worldmodels.errors import UserError, sentence


class Hdf5Reader(Reader):
    """Reads HDF5 files of several layouts, told apart by their fields."""

    suffixes = (".hdf5", ".h5")

    def read(self, name: str) -> Iterator[Recording]:
        """Read V-D4RL's files, Dreamer's, D4RL's, or one episode a file. Their fields tell them apart."""
        path = Path(name)
        h5py = require_package("h5py", "HDF5 files")
        with _opened(path, h5py) as file:
            _refuse_groups(path, file, h5py.Group)
            yield from read_rows(path, _fields(path, file), file, lambda: self._beside(path, h5py))

    def _beside(self, path: Path, h5py: Any) -> Iterator[Mapping[str, Any]]:
        for other in files_beside(path):
            with _opened(other, h5py) as file:
                yield _fields(other, file)


@contextmanager
def _opened(path: Path, h5py: Any) -> Iterator[Any]:
    """Open a file. Raise ``UserError`` where it cannot be read, be it later, for HDF5 reads rows when asked for."""
    try:
        with h5py.File(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5: {sentence(error)}") from error


def _fields(path: Path, file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known fields. Raise ``UserError`` for a link that leads nowhere."""
    fields = {}
    for key in file:
        try:
            fields |= {key: file[key]} if key in KNOWN else {}
        except (KeyError, OSError) as error:
            raise UserError(f"{path}: field {key!r} is a link that leads nowhere: write its rows there.") from error
    return fields


def _refuse_groups(path: Path, file: Mapping[str, Any], group: type) -> None:
    """Refuse files that have a group for each episode, as Minari's and robomimic's do."""
    keys = list(file)
    if not keys or not all(isinstance(file.get(key), group) for key in keys):
        return
    if keys[0].startswith("episode_"):
        raise UserError(
            f"{path} is the file inside a Minari dataset ({len(keys)} episodes): say data=minari:<id> instead."
        )
    raise UserError(
        f"{path} holds nothing but groups ({len(keys)}, such as {keys[0]!r}), as robomimic's files do: write each "
        "episode into a file of its own, with the fields 'observation' or 'state', 'action' and 'reward'."
    )
