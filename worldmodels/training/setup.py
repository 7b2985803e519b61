"""Putting a training together: environments, replay, model, planner, Lightning."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig

from dynamics.base import Dynamics
from planners.search.memory_budget import require_memory
from worldmodels.agent import Agent
from worldmodels.common import precision
from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.common.terminal import CtrlC
from worldmodels.common.timing import Stopwatch
from worldmodels.data.collect import Collector, row_spec, warn_of_rewards
from worldmodels.data.datamodule import OfflineDataset, OnlineData, OnlineDataset, UpdateSchedule
from worldmodels.data.import_dataset import open_dataset
from worldmodels.data.replay import Replay
from worldmodels.envs import describe
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.factory import (
    build_model,
    build_planner,
    construct,
    context_mode,
    located,
    loss_scales,
    prefix_rows,
    require_length,
)
from worldmodels.nets.choices import Discrete
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.runs.recordings import require_same_world
from worldmodels.training.callbacks import (
    EndlessWarning,
    EpisodeLogger,
    LatentRefresher,
    Progress,
    ShortEpisodeWarning,
    SpeedLogger,
    UpdateTimer,
)
from worldmodels.training.checkpoints import Checkpoints, PlainFiles
from worldmodels.training.loggers import build_loggers
from worldmodels.training.module import WorldModelModule
from worldmodels.training.parts import freeze, parts
from worldmodels.training.pictures import HistoryLogger, ImaginationLogger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spaces:
    """Spaces of environments, which a module is built from where there are none."""

    observation_spec: ObservationSpec
    action_dim: int
    discrete: Discrete


@dataclass(frozen=True)
class Training:
    """Everything that a run is made of, ready to start."""

    module: WorldModelModule
    data: OnlineData
    trainer: lightning.Trainer
    checkpoints: Checkpoints
    stopwatch: Stopwatch


@contextmanager
def assemble(cfg: DictConfig, folder: Path, ctrl_c: CtrlC, resumed_at: int = 0) -> Iterator[Training]:
    """Build a training in ``folder``. The environments' workers end with the block.

    ``resumed_at``: frames (offline: updates) of the checkpoint that it will continue.
    """
    with ExitStack() as stack:
        envs = stack.enter_context(VectorEnv(cfg.env, cfg.env.num_envs, cfg.seed, cfg.env.step_timeout))
        model = build_model(cfg, envs.observation_spec, envs.action_dim)
        if cfg.world_model:
            freeze(model, cfg, resumed_at)
        module = build_module(cfg, folder, model, envs)
        require_memory(model, module.planner, envs.num_envs, precision.device_of(cfg.trainer.accelerator))
        trainer_cfg = cfg.trainer
        stopwatch = Stopwatch()
        build = build_offline if cfg.data.dataset else build_dataset
        dataset = build(cfg, folder, module, envs, stopwatch)
        spaces = {
            "observations": {
                k: [list(s), str(d).removeprefix("torch.")] for k, (s, d) in envs.observation_spec.items()
            },
            "action_dim": envs.action_dim,
            "discrete": envs.discrete,
        }
        progress = Progress(dataset)
        checkpoints = Checkpoints(folder / "checkpoints", trainer_cfg.checkpoint_minutes, spaces, dataset)
        callbacks = [
            progress,
            UpdateTimer(stopwatch),
            SpeedLogger(dataset),
            EpisodeLogger(dataset, progress, ctrl_c),
            ShortEpisodeWarning(dataset, module.planner.min_window),
            EndlessWarning(dataset, describe(cfg.env)),
            LatentRefresher(dataset),
            checkpoints,
            HistoryLogger(dataset, trainer_cfg.video_every, cfg.data.length),
            ImaginationLogger(
                dataset,
                trainer_cfg.video_every,
                precision.context(trainer_cfg.precision, precision.device_of(trainer_cfg.accelerator)),
            ),
        ]
        require_length(cfg, module.planner, model.dynamics.max_length, module.prefix)
        with located(cfg.planner):
            module.planner.check(model.dynamics, cfg.data.length)
        warn_cold_starts(module, cfg.data.length)
        warn_untrained_histories(cfg, model.dynamics, module.prefix)
        module.configure_optimizers()  # mistakes in its configuration belong before the first frame
        loggers = build_loggers(cfg, folder, lambda: dataset.clock, resumed_at)
        trainer = build_trainer(trainer_cfg, dataset, callbacks, loggers)
        device = trainer.strategy.root_device
        module.to(device)
        if not cfg.data.dataset:
            dataset.collector.agent = Agent(
                envs.num_envs,
                module.acting[0],
                explore=True,
                generator=torch.Generator(device).manual_seed(cfg.seed),
                precision=precision.context(trainer_cfg.precision, device),
            )
        if trainer_cfg.compile:
            module.compile_losses()
        yield Training(module, OnlineData(dataset), trainer, checkpoints, stopwatch)


def build_trainer(
    cfg: DictConfig,
    dataset: OnlineDataset | OfflineDataset,
    callbacks: list[lightning.Callback],
    loggers: list[Logger],
) -> lightning.Trainer:
    """Build Lightning's trainer. One epoch is the whole run."""
    return lightning.Trainer(
        accelerator="gpu" if precision.device_of(cfg.accelerator).type == "cuda" else "cpu",
        devices=1,
        precision=precision.lightning_precision(cfg.precision),
        max_epochs=1,
        logger=loggers,
        log_every_n_steps=min(cfg.log_every, len(dataset)),
        callbacks=callbacks,
        plugins=[PlainFiles()],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def build_module(cfg: DictConfig, folder: Path, model: Any, envs: VectorEnv | Spaces) -> WorldModelModule:
    """The LightningModule of a configuration."""
    planner = build_planner(
        cfg.planner,
        envs.action_dim,
        envs.discrete,
        model.dynamics.feature_spec,
        seed=cfg.seed,
        nets=cfg.nets,
    )
    learning = [place for place, part in {**model.parts, "planner": planner}.items() if model.learns(part)]
    return WorldModelModule(
        model,
        planner,
        lambda groups: construct(cfg.optimizer.build, params=groups, lr=cfg.optimizer.lr),
        construct(cfg.optimizer.clip),
        construct(cfg.balance, scales=loss_scales(cfg, envs.observation_spec, learning)),
        parts(cfg, learning),
        prefix_rows(cfg, model.dynamics),
        cfg.optimizer.ema_decay,
        folder / "bad_batch.pt",
        cfg.optimizer.warmup,
    )


def build_dataset(
    cfg: DictConfig, folder: Path, module: WorldModelModule, envs: VectorEnv, stopwatch: Stopwatch
) -> OnlineDataset:
    """Replay, collector and schedule."""
    data = cfg.data
    model, planner = module.acting
    replay = Replay(
        folder / "replay",
        row_spec(envs, model if context_mode(cfg, model.dynamics) == "latent" else None),
        envs.num_envs,
        rows_kept(cfg, envs.frames_per_decision),
        data.limit_gib,
        data.cross_resets,
        cfg.seed,
    )
    log.info(replay.describe())
    rows = data.length + module.prefix
    if replay.layout.steps < rows:
        option, value = ("frames", cfg.frames) if data.capacity is None else ("data.capacity", data.capacity)
        raise UserError(
            f"{option}={value} keeps {replay.layout.steps} rows of each environment, too few for windows of {rows}: "
            f"raise {option} or lower data.length.",
            option=option,
            value=value,
        )
    agent = Agent(envs.num_envs, model, True, torch.Generator())
    repeat = envs.frames_per_decision
    schedule = UpdateSchedule(
        cfg.prefill // repeat, cfg.frames // repeat, cfg.train_ratio, data.batch_size * data.length
    )
    if schedule.total < 1:
        raise UserError(
            f"frames={cfg.frames} with prefill={cfg.prefill} and train_ratio={cfg.train_ratio} pays for no update: "
            "raise frames or lower prefill.",
            option="frames",
            value=cfg.frames,
        )
    return OnlineDataset(
        Collector(envs, replay, agent, stopwatch, model.heads["reward"].largest),
        replay,
        schedule,
        planner,
        build_planner(cfg.prefill_planner, envs.action_dim, envs.discrete),
        data.batch_size,
        rows,
        planner.reads_later,
    )


def rows_kept(cfg: DictConfig, frames_per_decision: int) -> int:
    """Return ``data.capacity``, or rows for the decisions of all frames and a tenth more.

    Every episode adds the row that it begins with. Those of less than ten decisions overwrite the oldest rows.
    """
    decisions = cfg.frames // frames_per_decision
    return cfg.data.capacity or decisions + decisions // 10 + cfg.env.num_envs


def warn_cold_starts(module: WorldModelModule, length: int) -> None:
    """Warn if many trajectories begin in a window's first latent, which was filtered from one frame alone.

    Plans begin in latents that know all that came before. Windows of a random offset seldom show the first one.
    """
    share = module.planner.cold_start_fraction(length)
    if share > 0.1 and not module.prefix and module.model.dynamics.recurrent:
        log.warning(
            "%.0f %% of what plans are learned from begins in a latent that was filtered from a single frame, as none "
            "does in acting: set data.context=burn_in, or a longer data.length",
            100 * share,
        )


def warn_untrained_histories(cfg: DictConfig, dynamics: Dynamics, prefix: int) -> None:
    """Warn if a backbone looks farther back when it acts than in any training window."""
    trained, longest = cfg.data.length + prefix, dynamics.max_length
    if context_mode(cfg, dynamics) == "latent":
        return
    if longest is not None and longest > trained:
        log.warning(
            "dynamics=%s sees %d steps back when it acts, and at most %d when it learns: what lies farther was never "
            "trained; set dynamics.core.window=%d, or a longer data.length",
            *(cfg.choices.dynamics, longest, trained, trained),
        )
    elif dynamics.long_memory:
        log.warning(
            "dynamics=%s remembers whole episodes when it acts, and at most %d steps when it learns: later states were "
            "never trained; set %sa longer data.length",
            *(cfg.choices.dynamics, trained, "" if cfg.data.dataset else "data.context=latent, or "),
        )


def shown_goal(envs: VectorEnv) -> dict[str, np.ndarray]:
    """Return what ``env.goal`` shows beside every observation."""
    return {key: value[0].numpy() for key, value in envs.reset().items() if key.startswith(GOAL_PREFIX)}


def build_offline(
    cfg: DictConfig, folder: Path, module: WorldModelModule, envs: VectorEnv, stopwatch: Stopwatch
) -> OfflineDataset:
    """Put a recording in the place of replay and collector. Nobody acts before the training is over."""
    data = cfg.data
    if data.context == "latent":
        raise UserError(
            "data.context=latent reads latents that a training wrote itself: with data=, use none or burn_in.",
            option="data.context",
            value=data.context,
            allowed=("none", "burn_in"),
        )
    require_same_world(data.dataset, cfg.env)
    repeat = envs.frames_per_decision
    where = (folder / "replay", data.limit_gib, data.cross_resets, cfg.seed, repeat)
    readers = [construct(reader) for reader in cfg.readers.values()]
    shown = shown_goal(envs) if cfg.env.get("goal") else None
    replay = open_dataset(data.dataset, row_spec(envs), *where, shown, readers)
    log.info("data=%s: %s", data.dataset, replay.describe())
    warn_of_rewards(replay.rewards(), module.model.heads["reward"].largest)
    longest, rows = max(replay.episode_lengths(), default=0), data.length + module.prefix
    needed = module.planner.min_window if data.cross_resets else max(rows, module.planner.min_window)
    if longest < needed:
        raise UserError(
            f"data={data.dataset}: the longest of its episodes has {longest} rows, and windows "
            f"(data.length={data.length}) and plans of planner={cfg.choices.planner} take {needed} of one episode: "
            "shorten them.",
            option="data.length",
            value=data.length,
            allowed=longest,
        )
    lost = sum(length for length in replay.episode_lengths() if length < needed) / len(replay)
    if lost > 0.01:
        log.warning(
            "data=%s: %.0f %% of the rows are in episodes of less than %d, too short for a whole window or plan",
            *(data.dataset, 100 * lost, needed),
        )
    later = module.planner.reads_later
    return OfflineDataset(replay, data.batch_size, rows, cfg.updates, stopwatch, repeat, later)
