"""Callbacks around the updates: progress, logs and warnings, pictures, a clean stop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import UInt8
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import override

from dynamics.base import State
from worldmodels.common.batch import split_context
from worldmodels.common.columns import MEMORY_PREFIX, PIXELS, PLACE, cameras
from worldmodels.common.randomness import own_randomness
from worldmodels.common.terminal import CtrlC
from worldmodels.common.timing import Stopwatch
from worldmodels.data.collect import Episode
from worldmodels.data.datamodule import OfflineDataset, OnlineDataset
from worldmodels.evaluation.histories import surprise
from worldmodels.training.loggers import show_clip, show_figure
from worldmodels.training.logs import SPEED
from worldmodels.training.module import WorldModelModule
from worldmodels.visualization.imagination import draw_clips, draw_errors, open_loop
from worldmodels.visualization.plan_figures import PlanPreview, beside_what_happened, draw_plan, frames_of, preview_plan

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


@dataclass(frozen=True)
class Pictures:
    """Where pictures of one moment are shown."""

    loggers: Sequence[Logger]
    step: int

    def clip(self, tag: str, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
        """Show an animation."""
        for logger in self.loggers:
            show_clip(logger, tag, frames, self.step)

    def figure(self, tag: str, figure: Figure) -> None:
        """Show a figure."""
        for logger in self.loggers:
            show_figure(logger, tag, figure, self.step)


class HistoryLogger(lightning.Callback):
    """Logs whether the model filters whole episodes, as it does when it acts, as well as training windows."""

    EPISODES, WINDOWS = 4, 8

    def __init__(self, dataset: OnlineDataset | OfflineDataset, updates: int, length: int) -> None:
        self.dataset, self.updates, self.length = dataset, updates, length

    def on_train_batch_end(self, trainer: lightning.Trainer, module: WorldModelModule, *_: Any) -> None:
        """Log every so many updates, from the newest episodes that are several windows long."""
        if self.dataset.updates % self.updates or self.length < 2:
            return
        longest = min(max(self.dataset.replay.episode_lengths(), default=0), self.WINDOWS * self.length)
        rows = longest // self.length * self.length
        episodes = self.dataset.replay.newest_episodes(self.EPISODES, rows) if rows >= 2 * self.length else None
        if episodes is None:
            return
        with own_randomness(torch.Generator(module.device).manual_seed(self.dataset.updates)):
            found = surprise(
                module.acting[0], {key: value.to(module.device) for key, value in episodes.items()}, self.length
            )
        if found is None:
            return
        module.log("history/kl_carried", found.carried[self.length :].mean())
        module.log("history/kl_restarted", found.restarted[self.length :].mean())
        figure = draw_errors({"carried, as in acting": found.carried, "restarted in each window": found.restarted})
        figure.axes[0].set(xlabel="step of the episode", ylabel="KL of posterior and prior, nats")
        Pictures(trainer.loggers, self.dataset.clock).figure("history/kl", figure)


class ImaginationLogger(lightning.Callback):
    """Draws what the model imagines: open-loop clips, error against horizon, and what the planner has in mind."""

    def __init__(
        self,
        dataset: OnlineDataset | OfflineDataset,
        updates: int,
        precision: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.dataset, self.updates, self.precision = dataset, updates, precision
        self.pending: tuple[PlanPreview, int] | None = None  # the plan before this, and the row it was made in

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: WorldModelModule, outputs: Any, batch: dict[str, Tensor], index: int
    ) -> None:
        """Draw every so many updates.

        And at the last. A random stream of its own: looking changes nothing that is learned or done.
        """
        if self.dataset.updates % self.updates and self.dataset.updates < len(self.dataset):
            return
        show = Pictures(trainer.loggers, self.dataset.clock)
        generator = torch.Generator(module.device).manual_seed(self.dataset.updates)
        self._draw_clip(module, batch, generator, show)
        self._draw_what_happened(module, show)
        self._draw_plan(module, batch, generator, show)

    def _draw_clip(
        self,
        module: WorldModelModule,
        batch: dict[str, Tensor],
        generator: torch.Generator,
        show: Pictures,
    ) -> None:
        """Draw windows of the newest batch with the fewest resets in their imagined part.

        No model could foresee one.
        """
        length = batch["action"].shape[1] - module.prefix
        if not cameras(batch) or length < 2:
            return  # nothing to see, or nothing follows the first frame
        context = max(1, length // 4)
        resets = batch["is_first"][:, module.prefix + context :].sum(1)
        best = resets.argsort(stable=True)[:6]
        prefix, window = split_context({key: value[best] for key, value in batch.items()}, module.prefix)
        model = module.acting[0]
        for camera in cameras(batch):
            with self.precision():
                with own_randomness(generator):
                    start = module.start(model, prefix, window)
                clip = open_loop(model, window, start, context, length - context, generator, camera)
            name = camera.removeprefix(PIXELS)
            show.clip(f"imagination/open_loop{name}", draw_clips(clip))
            show.figure(f"open_loop/error{name}", draw_errors({"model": clip.error()}))

    def _draw_plan(
        self,
        module: WorldModelModule,
        batch: dict[str, Tensor],
        generator: torch.Generator,
        show: Pictures,
    ) -> None:
        """Draw the plan of the first environment, or at the end of a recorded window if nobody acts."""
        agent, (model, planner) = self.dataset.agent, module.acting
        acts = agent is not None and agent.memory is not None
        with self.precision():
            if acts:
                state = model.dynamics.select(agent.state, slice(0, 1))
                memory = {key: value[:1] for key, value in agent.memory.items()}
            else:
                state, memory = self._recorded_state(module, batch, generator), planner.initial(1)
            preview = preview_plan(model, planner, state, memory, generator)
        if preview is None:
            return
        self.pending = (preview, self.dataset.replay.last_row) if acts else None
        show.figure("plan/candidates", draw_plan(preview))
        if "pixels" in model.encoder.observations:
            show.clip("plan/chosen", frames_of(model, preview))

    def _recorded_state(self, module: WorldModelModule, batch: dict[str, Tensor], generator: torch.Generator) -> State:
        """Return the model's state at the end of the batch's first window."""
        prefix, window = split_context({key: value[:1] for key, value in batch.items()}, module.prefix)
        with own_randomness(generator):
            return module.acting[0].observe(window, module.start(module.acting[0], prefix, window))[1]

    def _draw_what_happened(self, module: WorldModelModule, show: Pictures) -> None:
        """Draw the plan that was drawn before, beside what then happened, as far as its episode went."""
        if self.pending is None:
            return
        (preview, row), self.pending = self.pending, None
        rows = self.dataset.replay.episode_from(row, preview.info.plan.shape[1] + 1, 0)
        if len(rows["reward"]) < 2:
            return
        figure = draw_plan(preview, rows["reward"][1:].tolist())
        show.figure("plan/predicted_vs_actual", figure)
        if "pixels" in rows:
            clip = beside_what_happened(module.acting[0], preview, rows["pixels"])
            show.clip("plan/imagined_vs_observed", clip)
