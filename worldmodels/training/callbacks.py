"""Callbacks around the updates: progress, logs and warnings, pictures, a clean stop."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor
from typing_extensions import override

from worldmodels.common.columns import MEMORY_PREFIX, PLACE
from worldmodels.common.terminal import CtrlC
from worldmodels.common.timing import Stopwatch
from worldmodels.data.collect import Episode
from worldmodels.data.datamodule import OfflineDataset, OnlineDataset
from worldmodels.training.logs import SPEED
from worldmodels.training.module import WorldModelModule

log = logging.getLogger(__name__)

PREFILL_SECONDS = 2.0
"""Between two lines about the prefill, which has no progress bar."""


class LatentRefresher(lightning.Callback):
    """Writes what an update made of the stored latents back into the replay, as DreamerV3 does.

    Else latents stay what the model took them for when they were recorded. A transformer's cannot be written back.
    """

    def __init__(self, dataset: OnlineDataset | OfflineDataset) -> None:
        self.dataset = dataset

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: WorldModelModule, outputs: Any, batch: dict[str, Tensor], index: int
    ) -> None:
        if not outputs["latents"]:
            return
        latents = {MEMORY_PREFIX + key: value.cpu() for key, value in outputs["latents"].items()}
        self.dataset.replay.rewrite(batch[PLACE][:, module.prefix :].flatten().cpu(), latents)


class Progress(TQDMProgressBar):
    """Updates a second and time left, with the newest return and the frames so far."""

    def __init__(self, dataset: OnlineDataset | OfflineDataset) -> None:
        super().__init__(refresh_rate=10)
        self.dataset = dataset
        self.return_: float | None = None

    def init_train_tqdm(self) -> Tqdm:
        """Return a bar as long as the whole run, which begins where a resumed run does."""
        return Tqdm(
            desc=self.train_description,
            total=len(self.dataset),
            initial=self.dataset.updates,
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )

    def on_train_epoch_start(self, *_: Any) -> None:
        """Keep the bar: the one epoch is the whole run.

        Lightning would begin the bar anew here, and not at all when resuming.
        """

    def get_metrics(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, Any]:
        """Return only what a person watches."""
        shown = {"frames": f"{self.dataset.frames:,}"}
        return shown if self.return_ is None else {"return": f"{self.return_:.0f}"} | shown


class EpisodeLogger(lightning.Callback):
    """Logs every finished episode against frames, and lets Ctrl-C end the collecting too."""

    def __init__(self, dataset: OnlineDataset | OfflineDataset, progress: Progress, ctrl_c: CtrlC) -> None:
        self.dataset, self.progress, self.ctrl_c = dataset, progress, ctrl_c
        self.said = 0

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Listen to the collector."""

        def log_episode(episode: Episode) -> None:
            self.progress.return_ = episode.return_
            for logger in trainer.loggers:
                logger.log_metrics({"episode/return": episode.return_, "episode/length": float(episode.length)})
            if not self.dataset.updates and time.monotonic() - self.said > PREFILL_SECONDS:
                self.said = time.monotonic()
                log.info("prefill: %d frames, return %.1f", episode.frames, episode.return_)

        self.dataset.on_episode = log_episode
        self.dataset.should_stop = lambda: self.ctrl_c.pressed

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Stop after this update if asked to."""
        trainer.should_stop = trainer.should_stop or self.ctrl_c.pressed


class ShortEpisodeWarning(lightning.Callback):
    """Warns where no episode before the first update is long enough to teach a planner anything.

    A recording like that is refused. Online, later episodes may be longer.
    """

    def __init__(self, dataset: OnlineDataset | OfflineDataset, needed: int) -> None:
        self.dataset, self.needed, self.preview = dataset, needed, False

    def on_train_batch_start(self, *_: Any) -> None:
        """Warn once, before the first update."""
        if self.preview:
            return
        self.preview = True
        longest = max(self.dataset.replay.episode_lengths(), default=0)
        if longest < self.needed:
            log.warning(
                "no episode so far has the %d rows that a plan takes to be learned from, the longest has %d: until one "
                "has, plans are not learned; lower planner.plan_horizon",
                *(self.needed, longest),
            )


class EndlessWarning(lightning.Callback):
    """Warns where not one episode has ended before the first update: many environments of one's own have no limit."""

    def __init__(self, dataset: OnlineDataset | OfflineDataset, name: str) -> None:
        self.dataset, self.name, self.looked = dataset, name, False

    def on_train_batch_start(self, *_: Any) -> None:
        """Warn once, before the first update."""
        if self.looked:
            return
        self.looked = True
        begun_here = isinstance(self.dataset, OnlineDataset) and self.dataset.updates == 1
        if begun_here and not self.dataset.collector.ended:
            log.warning(
                "not one episode of %s has ended in %d decisions: if none ever does, returns are never logged and "
                "scores are of evaluation.max_steps decisions; env.max_episode_steps=1000 with env=gym ends episodes",
                *(self.name, self.dataset.decisions),
            )


class UpdateTimer(lightning.Callback):
    """Adds the seconds of every update to the stopwatch: forward, backward, clipping and the optimiser."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.started = 0.0

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self.stopwatch.add("update", time.perf_counter() - self.started)


class SpeedLogger(lightning.Callback):
    """Logs updates and environment frames a second, each over the time since the row before."""

    def __init__(self, dataset: OnlineDataset | OfflineDataset) -> None:
        self.dataset = dataset
        self.before: tuple[float, int, int] | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, module: WorldModelModule, *_: Any) -> None:
        """Log where the row of losses is logged too."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps and self.before is not None:
            return
        now = (time.perf_counter(), self.dataset.updates, self.dataset.frames)
        if self.before is not None:
            seconds, updates, frames = (new - old for new, old in zip(now, self.before, strict=True))
            module.log(f"{SPEED}updates_per_second", updates / seconds)
            module.log(f"{SPEED}frames_per_second", frames / seconds)
        self.before = now
