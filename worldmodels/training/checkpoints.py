"""Checkpoints: when they are saved, what they hold beside Lightning's own, and how each is always whole."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from worldmodels.common.arguments import shell_word
from worldmodels.data.datamodule import OfflineDataset, OnlineDataset
from worldmodels.errors import FULL, UserError
from worldmodels.runs.folders import CHECKPOINTS

log = logging.getLogger(__name__)


class PlainFiles(TorchCheckpointIO):
    """Writes to the path it is given.

    Lightning's own goes by way of the disk of temporary files, which may be another.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Return when the bytes are on the disk."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class Checkpoints(lightning.Callback):
    """Saves every few minutes and at the end, whatever ends the training. The newest two are kept, each whole."""

    def __init__(
        self, folder: Path, minutes: int | float, spaces: dict[str, Any], dataset: OnlineDataset | OfflineDataset
    ) -> None:
        self.folder, self.seconds, self.spaces, self.dataset = folder, 60 * minutes, spaces, dataset
        self.saved_at = time.monotonic()
        self.started = False

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Begin to save. Before, saving would put an unfinished restart over a checkpoint."""
        self.started = True

    def on_exception(self, trainer: lightning.Trainer, module: lightning.LightningModule, error: BaseException) -> None:
        """Keep what was recorded and learned before an environment failed, or a file that there was no place for."""
        if self.started and (isinstance(error, UserError) or is_full(error)):
            self.save(trainer)

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what resuming and loading need beside Lightning's own."""
        checkpoint["spaces"] = self.spaces
        checkpoint["counters"] = {
            "updates": self.dataset.updates,
            "decisions": self.dataset.decisions,
            "frames": self.dataset.frames,
            "clock": self.dataset.clock,
        }
        checkpoint["torch_rng"] = torch.get_rng_state()
        if not self.dataset.updates:
            del checkpoint["loops"]  # stopped while prefilling, which Lightning takes for a finished epoch
        else:  # a finished run may be given more frames
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        if torch.cuda.is_available():
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Continue random streams where they were."""
        torch.set_rng_state(checkpoint["torch_rng"])
        states = checkpoint.get("cuda_rng", [])
        if len(states) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states)
        else:
            log.warning("the checkpoint was made with another number of GPUs: theirs draw from new random streams")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Save when it is time, when asked to stop, and after the last update.

        Here and not after ``fit``: Lightning then counts the epoch as done and would not continue it.
        """
        over = trainer.should_stop or self.dataset.updates == len(self.dataset)
        if over or time.monotonic() - self.saved_at > self.seconds:
            self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write beside, then rename: a checkpoint under its name is always whole."""
        last, previous = (self.folder / name for name in CHECKPOINTS)
        temporary = self.folder / "writing.ckpt"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(temporary, weights_only=False)
        except (OSError, RuntimeError) as error:  # torch's zip writer raises the second on top of the first
            reason = first_os_error(error)
            if reason is None:
                raise
            temporary.unlink(missing_ok=True)
            go_on = shell_word("resume", self.folder.parent)
            kept = f"the checkpoint before it is untouched: free some space and continue with {go_on}"
            none = "there is none before it: free some space and start again"
            raise UserError(
                f"{temporary} could not be written ({reason.strerror or reason}); {kept if last.exists() else none}."
            ) from error
        if last.exists():
            os.replace(last, previous)
        os.replace(temporary, last)
        if isinstance(self.dataset, OnlineDataset):
            self.dataset.replay.checkpointed()
        self.saved_at = time.monotonic()


def is_full(error: BaseException) -> bool:
    """Return whether an exception is, or arose from, a disk that is full."""
    return getattr(first_os_error(error), "errno", None) in FULL


def first_os_error(error: BaseException | None) -> OSError | None:
    """The OSError that an exception is, or arose from."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def full_disks_left_to_main() -> Iterator[None]:
    """Print no traceback of a thread that finds the disk full: the main one's next call of that logger raises it."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not is_full(args.exc_value):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
