"""Recording, as `scripts/collect.py` does it: act with any policy and keep every row."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from pathlib import Path

import torch
from tqdm import tqdm

from planners.base import Planner
from planners.random import Random
from worldmodels.agent import Agent
from worldmodels.common import precision
from worldmodels.common.arguments import shell_word
from worldmodels.common.terminal import CtrlC, Interrupted
from worldmodels.common.timing import Stopwatch
from worldmodels.config import load_config
from worldmodels.data.card import write_card
from worldmodels.data.collect import Collector, row_spec
from worldmodels.data.model_free import ModelFreeAgent, StateAgent
from worldmodels.data.replay import Replay
from worldmodels.data.storage import create, plan
from worldmodels.envs import describe
from worldmodels.envs.options import Baselines, keys_of
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.factory import build_planner
from worldmodels.runs.folders import save_config
from worldmodels.runs.loading import Run, open_run, require_same_spaces

log = logging.getLogger(__name__)


def record(to: str, run_folder: str | None, frames: int | None, overrides: list[str], explore: bool = True) -> Path:
    """Record ``frames`` environment frames into the replay folder ``to``.

    A run's planner consults its model, and explores or does not. Without a run, the planner must be one that looks at
    nothing.
    """
    if not (run_folder or explore):
        raise UserError("explore=false is for run=<folder>: a planner that looks at nothing acts as it does.")
    folder = Path(to)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose another folder for the recording.")
    run = open_run(run_folder, overrides) if run_folder else None
    cfg = run.cfg if run else load_config(overrides)
    frames = frames or cfg.frames
    with (
        CtrlC() as ctrl_c,
        VectorEnv(cfg.env, cfg.env.num_envs, cfg.seed, cfg.env.step_timeout) as envs,
        tqdm(total=frames, unit="frame", file=sys.stdout) as bar,
    ):
        if run:
            require_same_spaces(envs, run.model, run.planner)
        planner, agent = policy(run, envs, explore) if run else model_free_policy(cfg, envs)
        # Every episode adds the row it begins with, and its last decision may be shorter than action_repeat.
        rows = 2 * frames // envs.frames_per_decision + envs.num_envs
        spec = row_spec(envs)
        create(folder, plan(spec, envs.num_envs, rows), cfg.data.limit_gib)  # never opens what another process records
        replay = Replay(folder, spec, envs.num_envs, rows, cfg.data.limit_gib, seed=cfg.seed)
        log.info(replay.layout.describe())
        save_config(cfg, folder)
        collector = Collector(envs, replay, agent, Stopwatch())
        while collector.frames < frames and len(replay) < rows and not ctrl_c.pressed:
            for episode in collector.step(planner):
                bar.set_postfix({"return": f"{episode.return_:.1f}"})
            bar.update(collector.frames - bar.n)
        replay.trim()
    settings = [f"{key}={value}" for key, value in cfg.env.items() if key not in ("_target_", *keys_of(Baselines))]
    what = {
        "env": describe(cfg.env),
        "settings": settings,
        "planner": cfg.choices.planner,
        "run": run_folder,
        "explores": explore if run else None,
        "seed": cfg.seed,
    }
    card = write_card(folder, what | {"frames": collector.frames, "collected": f"{datetime.now():%Y-%m-%d}"})
    log.info(
        "%d frames in %d episodes are in %s, what they are in card.md; learn from them with\n"
        "  python scripts/train.py %s",
        collector.frames,
        card["episodes"],
        folder,
        shell_word("data", folder),
    )
    if ctrl_c.pressed:
        raise Interrupted
    if collector.frames < frames:
        log.warning("its episodes are so short that %d rows were full before: record a second folder", rows)
    return folder


def policy(run: Run, envs: VectorEnv, explore: bool) -> tuple[Planner, Agent]:
    """A trained planner and the model it consults."""
    device = run.model.device
    amp = precision.acting_context(run.cfg.trainer, device)
    generator = torch.Generator(device).manual_seed(run.cfg.seed)
    return run.planner, Agent(envs.num_envs, run.model, explore, generator, amp)


def model_free_policy(cfg, envs: VectorEnv) -> tuple[Planner, ModelFreeAgent]:
    """A planner that needs no model."""
    planner = build_planner(cfg.planner, envs.action_dim, envs.discrete)
    if planner.reads_state:
        return planner, StateAgent(envs.num_envs, torch.Generator().manual_seed(cfg.seed))
    if not isinstance(planner, Random):
        raise UserError(
            f"planner={cfg.choices.planner} consults a world model: give a trained one with run=<folder>, "
            "or planner=random."
        )
    return planner, ModelFreeAgent(envs.num_envs, torch.Generator().manual_seed(cfg.seed))
