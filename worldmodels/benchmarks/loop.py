"""`scripts/benchmark.py suite=loop`: what a second of training is spent on, and which part is its bottleneck."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig
from typing_extensions import override

from worldmodels.benchmarks.training import finish, machine, milliseconds
from worldmodels.common.files import write_json
from worldmodels.common.terminal import CtrlC, Interrupted
from worldmodels.common.timing import Stopwatch
from worldmodels.config import load_config
from worldmodels.envs.doctor import require_rendering
from worldmodels.envs.vector import VectorEnv
from worldmodels.training.callbacks import EndlessWarning, ShortEpisodeWarning
from worldmodels.training.malloc import keep_freed_memory
from worldmodels.training.run import fit
from worldmodels.training.setup import Training, assemble

log = logging.getLogger(__name__)

WARM_UP = 5
"""Updates before the first that counts."""
STEPS = 30
"""Steps of the environments by which drawing is told from the rest of a step."""
ADVICE = (EndlessWarning, ShortEpisodeWarning)
"""Callbacks that advise whoever means to learn something."""
ACT = ("filter", "plan")
"""What a training's stopwatch calls the parts of acting."""


def measure(overrides: list[str], repeats: int = 50, to: str = "benchmark_loop.json") -> dict[str, Any]:
    """Train for so many updates, print what they were spent on, write the JSON."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()
    cfg = shortened(load_config(overrides), repeats)
    require_rendering(cfg.env)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    lightning.seed_everything(cfg.seed, verbose=False)
    with (
        tempfile.TemporaryDirectory(prefix="worldmodels_loop_") as folder,
        CtrlC() as ctrl_c,
        assemble(cfg, Path(folder), ctrl_c) as training,
    ):
        window = Window(training, repeats)
        watch(training, window)
        fit(training, None)
        if ctrl_c.pressed:
            raise Interrupted
        device = training.trainer.strategy.root_device
    parts = named(window.parts, 0.0 if cfg.data.dataset else drawing(cfg))
    result = {
        "overrides": overrides,
        "machine": machine(device),
        "updates": repeats,
        "seconds": window.seconds,
        "updates_per_second": repeats / window.seconds,
        "frames_per_second": window.frames / window.seconds,
        "parts": parts,
        "shares": {name: seconds / window.seconds for name, seconds in parts.items()},
        "bottleneck": max(parts, key=parts.__getitem__),
    }
    write_json(Path(to), result)
    log.info("%s\n%s", table(result), told(result))
    return result


def shortened(cfg: DictConfig, updates: int) -> DictConfig:
    """Let a configuration prefill no more than windows need, and then pay for so many updates at least.

    Pictures, checkpoints and scores, which come now and then, are left out.
    """
    decision = cfg.env.get("action_repeat", 1)
    rows = 2 * cfg.env.num_envs * (cfg.data.length + cfg.data.burn_in)
    prefill = min(cfg.prefill // decision, rows)
    per_update = cfg.data.batch_size * cfg.data.length / cfg.train_ratio
    cfg.prefill, cfg.prefill_updates = prefill * decision, 0
    cfg.frames = cfg.prefill + decision * math.ceil((updates + WARM_UP + 1) * per_update)
    cfg.updates = updates + WARM_UP + 1
    cfg.data.capacity, cfg.trainer.video_every, cfg.trainer.checkpoint_minutes = None, cfg.updates + 1, 1e6
    return cfg


class Window(lightning.Callback):
    """Empties the stopwatch once the first updates are made, reads it so many updates later, and ends the training."""

    def __init__(self, training: Training, updates: int) -> None:
        self.dataset, self.stopwatch, self.updates = training.data.dataset, training.stopwatch, updates
        self.seconds, self.frames = float("nan"), 0
        self.parts: dict[str, float] = {}

    @override
    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        done = self.dataset.updates - WARM_UP
        if done == 0:
            self.stopwatch.seconds.clear()
            self.start, self.frames = time.perf_counter(), self.dataset.frames
        if done == self.updates:
            self.seconds = time.perf_counter() - self.start
            self.frames = self.dataset.frames - self.frames
            self.parts = dict(self.stopwatch.seconds)
            trainer.should_stop = True


class Waiter(lightning.Callback):
    """Waits for the GPU at the end of each update, whose time would else be that of whoever asks for a number next."""

    @override
    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        finish(trainer.strategy.root_device)


def watch(training: Training, window: Window) -> None:
    """Time what a training's own stopwatch does not tell apart: storing, sampling, copying and logging."""
    replay, trainer, stopwatch = training.data.dataset.replay, training.trainer, training.stopwatch
    timed_by(stopwatch, "store", replay, "extend")
    timed_by(stopwatch, "store", replay, "rewrite")
    timed_by(stopwatch, "sample", training.data.dataset.batches, "take")
    timed_by(stopwatch, "copy", trainer.strategy, "batch_to_device")
    for logger in trainer.loggers:
        timed_by(stopwatch, "log", logger, "log_metrics")
        timed_by(stopwatch, "log", logger, "save")
    needed = [callback for callback in trainer.callbacks if not isinstance(callback, ADVICE)]
    trainer.callbacks = [Waiter(), *needed, window]


def timed_by(stopwatch: Stopwatch, name: str, owner: Any, method: str) -> None:
    """Add the seconds of every call of one object's method to a name."""
    inner = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        with stopwatch(name):
            return inner(*args, **kwargs)

    setattr(owner, method, call)


def named(seconds: Mapping[str, float], drawing: float) -> dict[str, float]:
    """Return the seconds of act, render, step, store, sample, copy, update and log, from those of a stopwatch.

    Its ``replay`` holds storing and sampling, and beside them latents that are copied to the host. ``drawing``: which
    share of the environments' time is drawing.
    """
    rest = dict(seconds)
    parts = {"act": sum(rest.pop(name, 0.0) for name in ACT)}
    environments = rest.pop("environments", 0.0)
    parts |= {"render": drawing * environments, "step": (1 - drawing) * environments}
    parts |= {name: rest.pop(name, 0.0) for name in ("store", "sample", "copy", "update", "log")}
    parts["copy"] += max(rest.pop("replay", 0.0) - parts["store"] - parts["sample"], 0.0)
    return parts | rest


def drawing(cfg: DictConfig) -> float:
    """Return which share of a step of the environments is drawing: steps that show pixels against steps that do not."""
    blind = {**cfg.env, **(cfg.env.get("baseline_overrides") or {})}
    if cfg.env.get("obs", "state") == "state" or blind == dict(cfg.env):
        return 0.0
    with_pixels, without = (step_milliseconds(env, cfg.env.num_envs, cfg) for env in (cfg.env, blind))
    return max(0.0, 1 - without / with_pixels)


def step_milliseconds(env: Mapping[str, Any], num_envs: int, cfg: DictConfig) -> float:
    """Median milliseconds of a step of all environments at once."""
    with VectorEnv(env, num_envs, cfg.seed, env["step_timeout"]) as envs:
        envs.reset()
        action = torch.zeros(num_envs, envs.action_dim)
        return milliseconds(lambda: envs.step(action), STEPS, torch.device("cpu"))["median"]


def table(result: Mapping[str, Any]) -> str:
    """Milliseconds of each part in an update's time and share, the largest first. What is left is ``other``."""
    total, updates = result["seconds"], result["updates"]
    rows = sorted(result["parts"].items(), key=lambda item: -item[1])
    rows += [("other", total - sum(result["parts"].values())), ("total", total)]
    lines = [f"{'':<12}{'ms an update':>14}{'share':>9}"]
    return "\n".join(lines + [f"{name:<12}{1e3 * s / updates:>14.2f}{100 * s / total:>7.1f} %" for name, s in rows])


def told(result: Mapping[str, Any]) -> str:
    """Say in a sentence what to make faster first."""
    name = result["bottleneck"]
    return (
        f"bottleneck: {name}, {100 * result['shares'][name]:.0f} % of the time, at "
        f"{result['updates_per_second']:.2f} updates and {result['frames_per_second']:.0f} frames a second"
    )
