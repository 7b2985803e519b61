"""Dreamer's npz files: one episode each."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from worldmodels.data.readers.base import SKILL, Reader, Recording, recording, require_fields
from worldmodels.errors import UserError


class NpzReader(Reader):
    """Reads npz files as DreamerV2 and DreamerV3 write them, V-D4RL's at 64 pixels among them."""

    suffixes = (".npz",)

    def read(self, name: str) -> Iterator[Recording]:
        """Read Dreamer's files, V-D4RL's at 64 pixels among them: one episode each, ``image`` [T, H, W, C]."""
        path = Path(name)
        known = ("image", "state", "action", "reward", "is_terminal", "discount", SKILL)
        try:
            with np.load(path, allow_pickle=False) as archive:
                names, file = sorted(archive), {key: archive[key] for key in known if key in archive}
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise UserError(f"{path} cannot be read as npz: {' '.join(str(error).split())}.") from error
        rows = require_fields(path, file, ("action", "reward"), names)
        seen = {"state": file["state"]} if "state" in file else {}
        if "image" in file:
            seen["pixels"] = file["image"].transpose(0, 3, 1, 2) if file["image"].ndim == 4 else file["image"]
        if not seen:
            raise UserError(f"{path} has no field 'image' or 'state', only {names}: nothing is observed in it.")
        terminal = file["is_terminal"] if "is_terminal" in file else file.get("discount", np.ones(1)) == 0
        yield recording(str(path), seen, rows["action"], rows["reward"], bool(np.ravel(terminal)[-1]), file.get(SKILL))
