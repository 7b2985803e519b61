"""What rows of the replay held before they were rewritten, so that a killed run goes on exactly from its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from worldmodels.errors import UserError

NAME = re.compile(r"undo-(\d+)\.log")
"""Name of a checkpoint's file."""


class UndoLog:
    """Writes ahead: the first time a row is rewritten since a checkpoint, what it held is in the log before.

    Each checkpoint begins a file of its own, ``undo-<number>.log``, of records: how many rows, their places, and each
    column's old values. The file before is kept until the checkpoint is whole. A record that was cut short is of rows
    that were not rewritten yet.

    Args:
        columns: the ring's columns that are rewritten, by name, one row after another.
    """

    def __init__(self, directory: Path, columns: Mapping[str, Shaped[Tensor, "R ..."]]) -> None:
        self.directory, self.columns = directory, dict(columns)
        self.number = 0
        self._file: BinaryIO | None = None
        self._clean = torch.ones(len(next(iter(columns.values()))), dtype=torch.bool)

    def mark(self) -> int:
        """Begin the file of a new checkpoint. Return its number."""
        self._begin(self.number + 1)
        return self.number

    def settle(self) -> None:
        """Delete what only checkpoints before the newest would need: it is on the disk as a whole."""
        for number in self._numbers():
            if number < self.number:
                self._path(number).unlink()

    def replaced(self, rows: slice) -> None:
        """Forget rows that something new was written over, which no checkpoint so far can go back to."""
        self._clean[rows] = False

    def keep(self, rows: Int64[Tensor, " N"]) -> None:
        """Log what these rows hold, as far as they still hold what they held at the checkpoint.

        Raises:
            UserError: the disk is full.
        """
        rows = rows[self._clean[rows]]
        if not len(rows):
            return
        self._clean[rows] = False
        parts = [torch.tensor([len(rows)]), rows, *(column[rows] for column in self.columns.values())]
        try:
            self._file = self._file or self._path(self.number).open("wb")
            self._file.write(b"".join(part.numpy().tobytes() for part in parts))
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self._path(self.number)} could not be written ({error.strerror}): free some space and continue "
                "with resume=<this run>, or use data.context=none."
            ) from error

    def rewind(self, number: int) -> bool:
        """Put back what rows held at a checkpoint, newest changes first. Return whether all of it is known."""
        found = self._numbers()
        known = number in found or not any(later > number for later in found)
        for later in sorted((later for later in found if later >= number), reverse=True):
            for rows, values in self._records(later):
                for key, column in self.columns.items():
                    column[rows] = values[key]
        for later in found:
            if later > number:
                self._path(later).unlink()
        self._begin(number)
        return known

    def _begin(self, number: int) -> None:
        if self._file is not None:
            self._file.close()
        self.number, self._file = number, self._path(number).open("wb")
        self._clean.fill_(True)

    def _records(self, number: int) -> Iterator[tuple[Int64[Tensor, " N"], dict[str, Tensor]]]:
        """The whole records of a file. Raise ``UserError`` where it is not of this ring."""
        row_bytes = 8 + sum(column[:1].numel() * column.element_size() for column in self.columns.values())
        with self._path(number).open("rb") as file:
            while len(head := file.read(8)) == 8:
                count = int.from_bytes(head, "little")
                if count > len(self._clean):
                    raise self._foreign(number)
                content = bytearray(file.read(count * row_bytes))
                if len(content) < count * row_bytes:
                    return
                rows, at = torch.frombuffer(content, dtype=torch.int64, count=count), 8 * count
                if count and not 0 <= int(rows.min()) <= int(rows.max()) < len(self._clean):
                    raise self._foreign(number)
                values = {}
                for key, column in self.columns.items():
                    numbers = count * column[:1].numel()
                    read = torch.frombuffer(content, dtype=column.dtype, offset=at, count=numbers)
                    values[key], at = read.reshape(count, *column.shape[1:]), at + numbers * column.element_size()
                yield rows, values

    def _numbers(self) -> list[int]:
        found = (NAME.fullmatch(path.name) for path in self.directory.glob("undo-*.log"))
        return sorted(int(name[1]) for name in found if name)

    def _foreign(self, number: int) -> UserError:
        return UserError(
            f"{self._path(number)} names rows that this replay does not have: it is damaged or another's; delete it to "
            "go on with latents that are newer than the checkpoint."
        )

    def _path(self, number: int) -> Path:
        return self.directory / f"undo-{number}.log"
