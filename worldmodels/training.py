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
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig

from worldmodels import precision
from worldmodels.build import build_model, build_planner, loss_scales, prefix_rows
from worldmodels.callbacks import Checkpoints, Episodes, Progress, Watch
from worldmodels.cli import CtrlC
from worldmodels.data.collect import Actor, Collector, row_spec
from worldmodels.data.datamodule import OnlineData, OnlineDataset, Schedule
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.module import WorldModelModule
from worldmodels.timing import Stopwatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Everything that a run is made of, ready to start."""

    module: WorldModelModule
    data: OnlineData
    trainer: lightning.Trainer
    checkpoints: Checkpoints
    watch: Stopwatch


@contextmanager
def assemble(cfg: DictConfig, folder: Path, ctrl_c: CtrlC) -> Iterator[Training]:
    """Build a training in ``folder``; the environments' workers end with the block."""
    with ExitStack() as stack:
        envs = stack.enter_context(VectorEnv(cfg.env, cfg.env.num_envs, cfg.seed, cfg.env.step_timeout))
        model = build_model(cfg, envs.observation_spec, envs.action_dim)
        module = build_module(cfg, folder, model, envs)
        trainer_cfg = cfg.trainer
        watch = Stopwatch()
        dataset = build_dataset(cfg, folder, module, envs, watch)
        spaces = {
            "observations": {
                k: [list(s), str(d).removeprefix("torch.")] for k, (s, d) in envs.observation_spec.items()
            },
            "action_dim": envs.action_dim,
            "discrete": envs.discrete,
        }
        progress = Progress(dataset)
        checkpoints = Checkpoints(folder / "checkpoints", trainer_cfg.checkpoint_minutes, spaces, dataset)
        trainer = lightning.Trainer(
            accelerator=trainer_cfg.accelerator,
            devices=1,
            precision=precision.lightning_precision(trainer_cfg.precision),
            max_epochs=1,
            logger=[TensorBoardLogger(folder, name="", version=""), CSVLogger(folder, name="", version="")],
            log_every_n_steps=trainer_cfg.log_updates,
            callbacks=[
                progress,
                Episodes(dataset, progress, ctrl_c),
                checkpoints,
                Watch(dataset, trainer_cfg.watch_updates),
            ],
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        device = trainer.strategy.root_device
        dataset.collector.actor = Actor(
            envs.num_envs,
            model.to(device),
            explore=True,
            generator=torch.Generator(device).manual_seed(cfg.seed),
            precision=precision.context(trainer_cfg.precision, device),
        )
        if trainer_cfg.compile:
            module.compile_losses()
        yield Training(module, OnlineData(dataset), trainer, checkpoints, watch)


def build_module(cfg: DictConfig, folder: Path, model: Any, envs: VectorEnv) -> WorldModelModule:
    """The LightningModule of a configuration."""
    return WorldModelModule(
        model,
        build_planner(cfg.planner, envs.action_dim, envs.discrete),
        instantiate(cfg.optimizer.build),
        instantiate(cfg.optimizer.clip),
        loss_scales(cfg, envs.observation_spec),
        cfg.optimizer.learning_rates,
        prefix_rows(cfg),
        folder / "bad_batch.pt",
    )


def build_dataset(
    cfg: DictConfig, folder: Path, module: WorldModelModule, envs: VectorEnv, watch: Stopwatch
) -> OnlineDataset:
    """Replay, collector and schedule."""
    data = cfg.data
    replay = Replay(
        folder / "replay",
        row_spec(envs, module.model if data.context == "latent" else None),
        envs.num_envs,
        data.capacity,
        data.limit_gib,
        data.cross_resets,
        cfg.seed,
    )
    log.info(replay.describe())
    actor = Actor(envs.num_envs, module.model, True, torch.Generator())
    repeat = cfg.env.get("action_repeat", 1)
    schedule = Schedule(cfg.prefill // repeat, cfg.frames // repeat, cfg.train_ratio, data.batch_size * data.length)
    if schedule.total < 1:
        raise UserError(
            f"frames={cfg.frames} with prefill={cfg.prefill} and train_ratio={cfg.train_ratio} pays for no update: "
            "raise frames or lower prefill."
        )
    return OnlineDataset(
        Collector(envs, replay, actor, watch),
        replay,
        schedule,
        module.planner,
        build_planner(cfg.prefill_planner, envs.action_dim, envs.discrete),
        data.batch_size,
        data.length + module.prefix,
    )
