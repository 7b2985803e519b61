"""Putting a training together: environments, replay, model, planner, Lightning."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig

from dynamics.base import Dynamics
from planners.base import Planner
from planners.search.memory_budget import require_memory
from worldmodels.agent import Agent
from worldmodels.common import precision
from worldmodels.common.choices import Compile
from worldmodels.common.compiling import compiler_missing
from worldmodels.common.terminal import CtrlC
from worldmodels.common.timing import Stopwatch
from worldmodels.data.datamodule import OfflineDataset, OnlineData, OnlineDataset
from worldmodels.envs import describe
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import OptionError
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
from worldmodels.training.datasets import build_offline, build_online
from worldmodels.training.loggers import build_loggers
from worldmodels.training.module import WorldModelModule
from worldmodels.training.parts import freeze, parts, work_out_discounts
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
        work_out_discounts(cfg.planner, envs.episode_decisions)
        model = build_model(cfg, envs.observation_spec, envs.action_dim)
        if cfg.world_model:
            freeze(model, cfg, resumed_at)
        module = build_module(cfg, folder, model, envs)
        device = precision.prepared_device(cfg.trainer)
        narrow_acting(cfg.trainer, module, device)
        require_memory(model, module.planner, envs.num_envs, device)
        trainer_cfg = cfg.trainer
        stopwatch = Stopwatch()
        build = build_offline if cfg.data.dataset else build_online
        dataset = build(cfg, folder, module, envs, stopwatch)
        checkpoints = Checkpoints(folder / "checkpoints", trainer_cfg.checkpoint_minutes, saved_spaces(envs), dataset)
        callbacks = build_callbacks(cfg, dataset, module.planner, checkpoints, stopwatch, ctrl_c)
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
        for part in module.collecting:
            part.to(device)
        if not cfg.data.dataset:
            dataset.collector.agent = Agent(
                envs.num_envs,
                module.collecting[0],
                explore=True,
                generator=torch.Generator(device).manual_seed(cfg.seed),
                precision=precision.acting_context(trainer_cfg, device),
            )
        compile_parts(trainer_cfg.compile, module, device)
        yield Training(module, OnlineData(dataset), trainer, checkpoints, stopwatch)


def narrow_acting(trainer_cfg: DictConfig, module: WorldModelModule, device: torch.device) -> None:
    """Act in bf16 where ``trainer.acting_precision`` says so."""
    if precision.acting(trainer_cfg.acting_precision, device) == "bf16":
        module.collect_narrowly(torch.bfloat16)


def compile_parts(word: Compile, module: WorldModelModule, device: torch.device) -> None:
    """Compile what ``trainer.compile`` asks for. It happens, and is told, when the parts are first used."""
    if word == "auto":
        word = "cell" if device.type == "cuda" else "off"
    if word == "off":
        return
    if missing := compiler_missing(device):
        raise OptionError("trainer.compile", word, f"needs {missing}, which is not installed; or use off")
    module.collecting[0].dynamics.compile_step()
    if word == "whole":
        module.compile_losses(graphs=device.type == "cuda")


def saved_spaces(envs: VectorEnv) -> dict[str, Any]:
    """Return environments' spaces as a checkpoint keeps them."""
    return {
        "observations": {k: [list(s), str(d).removeprefix("torch.")] for k, (s, d) in envs.observation_spec.items()},
        "action_dim": envs.action_dim,
        "discrete": envs.discrete,
    }


def build_callbacks(
    cfg: DictConfig,
    dataset: OnlineDataset | OfflineDataset,
    planner: Planner,
    checkpoints: Checkpoints,
    stopwatch: Stopwatch,
    ctrl_c: CtrlC,
) -> list[lightning.Callback]:
    """Build what watches a training: bar, logs, warnings, checkpoints, pictures. They are called in this order."""
    trainer_cfg, progress = cfg.trainer, Progress(dataset)
    device = precision.device_of(trainer_cfg.accelerator)
    amp = precision.acting_context(trainer_cfg, device)
    return [
        progress,
        UpdateTimer(stopwatch),
        SpeedLogger(dataset),
        EpisodeLogger(dataset, progress, ctrl_c),
        ShortEpisodeWarning(dataset, planner.min_window),
        EndlessWarning(dataset, describe(cfg.env)),
        LatentRefresher(dataset),
        checkpoints,
        HistoryLogger(dataset, trainer_cfg.video_every, cfg.data.length),
        ImaginationLogger(dataset, trainer_cfg.video_every, amp),
    ]


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
