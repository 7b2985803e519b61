"""What happens around the updates: progress, checkpoints, pictures, a clean stop."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from worldmodels import visualize
from worldmodels.cli import CtrlC
from worldmodels.data.collect import Episode
from worldmodels.data.datamodule import OnlineDataset
from worldmodels.data.replay import split_context
from worldmodels.errors import UserError
from worldmodels.module import WorldModelModule
from worldmodels.runs import CHECKPOINTS

log = logging.getLogger(__name__)


class Progress(TQDMProgressBar):
    """Updates a second and time left, with the newest return and the frames so far."""

    def __init__(self, dataset: OnlineDataset) -> None:
        super().__init__(refresh_rate=10)
        self.dataset = dataset
        self.score: float | None = None

    def get_metrics(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, Any]:
        """Only what a person watches."""
        shown = {"frames": f"{self.dataset.collector.frames:,}"}
        return shown if self.score is None else {"return": f"{self.score:.0f}"} | shown


class Episodes(lightning.Callback):
    """Logs every finished episode against frames, and lets Ctrl-C end the collecting too."""

    def __init__(self, dataset: OnlineDataset, progress: Progress, ctrl_c: CtrlC) -> None:
        self.dataset, self.progress, self.ctrl_c = dataset, progress, ctrl_c

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Listen to the collector."""

        def log_episode(episode: Episode) -> None:
            self.progress.score = episode.score
            metrics = {"episode/return": episode.score, "episode/length": float(episode.length)}
            for logger in trainer.loggers:
                logger.log_metrics(metrics | {"frames": float(episode.frames)}, step=episode.frames)
            if not trainer.global_step:
                log.info("prefill: %d frames, return %.1f", episode.frames, episode.score)

        self.dataset.on_episode = log_episode
        self.dataset.should_stop = lambda: self.ctrl_c.pressed

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Stop after this update if asked to."""
        trainer.should_stop = trainer.should_stop or self.ctrl_c.pressed


class Checkpoints(lightning.Callback):
    """Saves every few minutes and at the end, whatever ends the training; the newest two are kept, each whole."""

    def __init__(self, folder: Path, minutes: float, spaces: dict[str, Any], dataset: OnlineDataset) -> None:
        self.folder, self.seconds, self.spaces, self.dataset = folder, 60 * minutes, spaces, dataset
        self.saved_at = time.monotonic()

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what resuming and loading need beside Lightning's own."""
        checkpoint["spaces"] = self.spaces
        checkpoint["counters"] = {
            "updates": self.dataset.updates,
            "decisions": self.dataset.collector.decisions,
            "frames": self.dataset.collector.frames,
        }
        checkpoint["torch_rng"] = torch.get_rng_state()
        if not self.dataset.updates:
            del checkpoint["loops"]  # stopped while prefilling, which Lightning takes for a finished epoch
        if torch.cuda.is_available():
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Random streams continue where they were."""
        torch.set_rng_state(checkpoint["torch_rng"])
        if "cuda_rng" in checkpoint and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(checkpoint["cuda_rng"])

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
            trainer.save_checkpoint(temporary)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"{temporary} could not be written ({error.strerror or error}); the checkpoint before it is untouched: "
                "free some space and continue with resume=<this run>."
            ) from error
        if last.exists():
            os.replace(last, previous)
        os.replace(temporary, last)
        self.saved_at = time.monotonic()


class Watch(lightning.Callback):
    """Draws what the model imagines: open-loop clips, error against horizon, and the plan it is following."""

    def __init__(self, dataset: OnlineDataset, updates: int) -> None:
        self.dataset, self.updates = dataset, updates

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: WorldModelModule, outputs: Any, batch: dict[str, Tensor], index: int
    ) -> None:
        """Every so many updates, from the newest batch, which costs the replay's random stream nothing."""
        if self.dataset.updates % self.updates or "pixels" not in batch:
            return
        writer = trainer.loggers[0].experiment
        frames = self.dataset.collector.frames
        generator = torch.Generator(module.device).manual_seed(self.dataset.updates)
        prefix, window = split_context({key: value[:6] for key, value in batch.items()}, module.prefix)
        length = window["action"].shape[1]
        context = max(1, length // 4)
        with self.dataset.collector.actor.precision():
            clip = visualize.open_loop(
                module.model, window, module.start(prefix, window), context, length - context, generator
            )
            plan = visualize.plan_frames(module.model, self.dataset.collector.actor, generator)
        visualize.add_gif(writer, "imagination/open_loop", visualize.draw_clips(clip), frames)
        writer.add_figure("imagination/error_against_step", visualize.draw_errors({"model": clip.error()}), frames)
        if plan is not None:
            visualize.add_gif(writer, "planner/chosen_plan", plan, frames)
