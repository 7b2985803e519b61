"""Batches that are read while the update before is computed, and hold the very rows that they would hold without."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldmodels.data.replay import Replay
from worldmodels.data.windows import Draw


def pays(device: torch.device) -> bool:
    """Return whether reading ahead gains anything: not where the cores that would read compute the update."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Ahead:
    """A batch that is being read: how to draw it again, the newest row by then, its rows, and what was read of them."""

    before: dict[str, Any]
    last_row: int
    draw: Draw
    kept: Future[dict[str, Tensor]]


class Batches:
    """Hands out batches of a replay, each as it is drawn and read at that moment.

    For a GPU the next one is drawn at once and read in a thread, into pinned memory, from which it is copied there
    without anybody waiting. Stored latents, which the update rewrites, are read when it is handed out, and where rows
    came in meanwhile it is drawn anew. Elsewhere there is no thread.

    Args:
        rows: of a window.
        later: whether batches hold a row of the episode behind each window (:meth:`Replay.sample`).
    """

    def __init__(
        self,
        replay: Replay,
        batch_size: int,
        rows: int,
        later: bool = False,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a value
    ) -> None:
        self.replay, self.batch_size, self.rows, self.later = replay, batch_size, rows, later
        self.reads_ahead, self.pinned = pays(device), device.type == "cuda"
        self._ahead: Ahead | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

    def take(self) -> dict[str, Tensor]:
        """Return the next batch."""
        if self._ahead is not None and self._ahead.last_row != self.replay.last_row:
            self.put_back()
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            draw = self.replay.draw(self.batch_size, self.rows, self.later)
            return self.replay.read_kept(draw, self.pinned) | self.replay.read_latents(draw, self.pinned)
        return ahead.kept.result() | self.replay.read_latents(ahead.draw, self.pinned)

    def read_ahead(self) -> None:
        """Begin to read the next batch. Call it only where no row is to come in before it."""
        before, last_row = self.replay.sampler.state_dict(), self.replay.last_row
        draw = self.replay.draw(self.batch_size, self.rows, self.later)
        self._ahead = Ahead(before, last_row, draw, self._thread.submit(self.replay.read_kept, draw, self.pinned))

    def put_back(self) -> None:
        """Forget the batch that is read ahead, so that it is drawn again: what is saved now knows nothing of it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.kept.exception()  # when it is over; what is read then is nobody's
            self.replay.sampler.load_state_dict(ahead.before)
