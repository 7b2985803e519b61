"""HDF5 files: V-D4RL's, Dreamer's, D4RL's, or one episode a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        try:
            with h5py.File(path) as file:
                _refuse_groups(path, file, h5py.Group)
                columns = {key: file[key] for key in file if key in KNOWN}
                yield from read_rows(path, columns, file, lambda: self._beside(path, h5py))
        except OSError as error:
            raise UserError(f"{path} cannot be read as HDF5: {sentence(error)}") from error

    def _beside(self, path: Path, h5py: Any) -> Iterator[Mapping[str, Any]]:
        for other in files_beside(path):
            with h5py.File(other) as file:
                yield {key: file[key] for key in file if key in KNOWN}


def _refuse_groups(path: Path, file: Mapping[str, Any], group: type) -> None:
    """Refuse files that have a group for each episode, as Minari's and robomimic's do."""
    keys = list(file)
    if not keys or not all(isinstance(file[key], group) for key in keys):
        return
    if keys[0].startswith("episode_"):
        raise UserError(
            f"{path} is the file inside a Minari dataset ({len(keys)} episodes): say data=minari:<id> instead."
        )
    raise UserError(
        f"{path} holds nothing but groups ({len(keys)}, such as {keys[0]!r}), as robomimic's files do: write each "
        "episode into a file of its own, with the fields 'observation' or 'state', 'action' and 'reward'."
    )
