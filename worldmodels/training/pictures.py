"""Callbacks that draw while a model learns: histories, imagination, and what the planner has in mind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import UInt8
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure
from torch import Tensor

from dynamics.base import State
from worldmodels.common.batch import split_context
from worldmodels.common.columns import PIXELS, cameras
from worldmodels.common.randomness import own_randomness
from worldmodels.data.datamodule import OfflineDataset, OnlineDataset
from worldmodels.evaluation.histories import surprise
from worldmodels.training.loggers import show_clip, show_figure
from worldmodels.training.module import WorldModelModule
from worldmodels.visualization.imagination import draw_clips, draw_errors, open_loop
from worldmodels.visualization.plan_figures import PlanPreview, beside_what_happened, draw_plan, frames_of, preview_plan


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
