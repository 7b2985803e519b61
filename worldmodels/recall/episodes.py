"""Recorded episodes of `env=recall`, for all trainings alike."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import trange

from worldmodels.common.batch import ROW_FLAGS
from worldmodels.common.seeds import derive_seed
from worldmodels.common.terminal import CtrlC
from worldmodels.config import load_config
from worldmodels.data.replay import Replay
from worldmodels.envs import make
from worldmodels.envs.recall import Recall
from worldmodels.recall.grid import Cell

SIDE_BY_SIDE = 64
"""Episodes recorded at a time; a larger number of them is rounded up to a multiple."""


def provide_data(cfg: DictConfig, folder: Path, cell: Cell, ctrl_c: CtrlC) -> None:
    """Record the episodes of a cell, of uniform actions: some to learn from, others to be scored on."""
    env = load_config(cell.words(cfg)).env
    for part, episodes in (("train", cfg.memory.episodes), ("test", cfg.memory.held_out)):
        target = folder / "data" / cell.data / part
        if target.exists() or ctrl_c.pressed:
            continue
        unfinished = target.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        seed = derive_seed(cfg.seed, *part.encode())
        if record_episodes(env, unfinished, episodes, seed, cfg.data.limit_gib, ctrl_c):
            unfinished.rename(target)


def record_episodes(
    env: DictConfig, folder: Path, episodes: int, seed: int, limit_gib: float, ctrl_c: CtrlC | None = None
) -> bool:
    """Record episodes of equal length side by side in this process: a frame of theirs costs less than a message.

    Returns whether all were recorded before Ctrl-C.
    """
    side = min(episodes, SIDE_BY_SIDE)
    worlds, random = [make(env, seed, i) for i in range(side)], np.random.RandomState(seed)
    space, actions = worlds[0].observation_space["pixels"], int(worlds[0].action_space.n)
    length = Recall.length(env.delay)
    spec = {"pixels": (space.shape, torch.uint8), "action": ((actions,), torch.float32), "reward": ((), torch.float32)}
    rounds = -(-episodes // side)
    replay = Replay(
        folder, spec | {key: ((), kind) for key, kind in ROW_FLAGS.items()}, side, rounds * length * side, limit_gib
    )
    no = torch.zeros(side, dtype=torch.bool)
    for step in trange(rounds * length, desc=str(folder.parent.name), unit="step", unit_scale=side, file=sys.stdout):
        if ctrl_c and ctrl_c.pressed:
            return False
        t, action, chosen = step % length, torch.zeros(side, actions), random.randint(actions, size=side)
        if t == 0:
            seen, rewards = [world.reset()[0]["pixels"] for world in worlds], [0.0] * side
        else:
            action[torch.arange(side), torch.from_numpy(chosen)] = 1
            outcomes = [world.step(a) for world, a in zip(worlds, chosen, strict=True)]
            seen, rewards = [o[0]["pixels"] for o in outcomes], [o[1] for o in outcomes]
        pixels = torch.from_numpy(np.stack(seen))
        flags = {"is_first": no | (t == 0), "is_last": no | (t == length - 1), "is_terminal": no}
        replay.extend({"pixels": pixels, "action": action, "reward": torch.tensor(rewards), **flags})
    return True
