"""What a training learns from: a replay that it fills as it acts, or a recording."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from worldmodels.agent import Agent
from worldmodels.common import precision
from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.common.timing import Stopwatch
from worldmodels.data.collect import Collector, require_no_end, row_spec, warn_of_rewards
from worldmodels.data.datamodule import OfflineDataset, OnlineDataset, UpdateSchedule
from worldmodels.data.import_dataset import open_dataset
from worldmodels.data.prefetch import Batches
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.factory import build_planner, construct, context_mode
from worldmodels.runs.recordings import require_same_world
from worldmodels.training.module import WorldModelModule

log = logging.getLogger(__name__)


def build_online(
    cfg: DictConfig, folder: Path, module: WorldModelModule, envs: VectorEnv, stopwatch: Stopwatch
) -> OnlineDataset:
    """Replay, collector and schedule."""
    data = cfg.data
    if data.newest_once and not data.cross_resets:
        raise UserError(
            "data.newest_once=true cuts all rows into windows, across resets too: it needs data.cross_resets=true.",
            option="data.newest_once",
            value=True,
        )
    model, planner = module.collecting
    replay = Replay(
        folder / "replay",
        row_spec(envs, model if context_mode(cfg, model.dynamics) == "latent" else None),
        envs.num_envs,
        rows_kept(cfg, envs.frames_per_decision),
        data.limit_gib,
        data.cross_resets,
        cfg.seed,
        data.newest_once,
    )
    log.info(replay.layout.describe())
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
        *(cfg.prefill // repeat, cfg.frames // repeat, cfg.train_ratio, data.batch_size * data.length),
        cfg.prefill_updates,
    )
    if schedule.total < 1:
        raise UserError(
            f"frames={cfg.frames} with prefill={cfg.prefill} and train_ratio={cfg.train_ratio} pays for no update: "
            "raise frames or lower prefill.",
            option="frames",
            value=cfg.frames,
        )
    return OnlineDataset(
        Collector(envs, replay, agent, stopwatch, model.heads["reward"].largest, model.heads["cont"].ends),
        Batches(replay, data.batch_size, rows, planner.reads_later, precision.device_of(cfg.trainer.accelerator)),
        schedule,
        planner,
        planner if cfg.prefill_planner is None else build_planner(cfg.prefill_planner, envs.action_dim, envs.discrete),
    )


def rows_kept(cfg: DictConfig, frames_per_decision: int) -> int:
    """Return ``data.capacity``, or rows for the decisions of all frames and a tenth more.

    Every episode adds the row that it begins with. Those of less than ten decisions overwrite the oldest rows.
    """
    decisions = cfg.frames // frames_per_decision
    return cfg.data.capacity or decisions + decisions // 10 + cfg.env.num_envs


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
    log.info("data=%s: %s", data.dataset, replay.layout.describe())
    warn_of_rewards(replay.column("reward"), module.model.heads["reward"].largest)
    if not module.model.heads["cont"].ends:
        require_no_end(replay.column("is_terminal"), f"data={data.dataset}")
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
    device = precision.device_of(cfg.trainer.accelerator)
    batches = Batches(replay, data.batch_size, rows, module.planner.reads_later, device)
    return OfflineDataset(batches, cfg.updates, stopwatch, repeat)
