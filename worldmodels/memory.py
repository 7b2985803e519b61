"""`experiment=memory`: what each backbone remembers, learned from the same recorded episodes of `env=recall`."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import trange

from dynamics.latent import require_posterior
from worldmodels import precision, visualize
from worldmodels.build import build_model
from worldmodels.cli import CtrlC, Interrupted, load_config
from worldmodels.data.collect import ROW_FLAGS
from worldmodels.data.datamodule import OfflineDataset
from worldmodels.data.replay import Replay, split_context
from worldmodels.encoders import pixels_to_float
from worldmodels.envs import make
from worldmodels.envs.base import check_count, derive_seed
from worldmodels.envs.recall import DARK, SHOWN, WALL, Recall
from worldmodels.envs.stream import depend_on_parent
from worldmodels.errors import UserError
from worldmodels.evaluation import write_json
from worldmodels.launch import NEEDLESS_WARNINGS, quietly
from worldmodels.logs import FrameCurves
from worldmodels.memory_report import TASKS, draw, table
from worldmodels.model import WorldModel
from worldmodels.module import WorldModelModule
from worldmodels.runs import CONFIG, new_folder
from worldmodels.training import Spaces, build_module

log = logging.getLogger(__name__)

SHORTEST = 4
"""Least steps of a hallway."""
OVERRULED = {
    "dynamics": "memory.backbones",
    "dynamics.posterior": "memory.posteriors",
    "dynamics.free_nats": "memory.free_nats",
    "env.delay": "memory.delays",
    "env.cue": "memory.controls",
    "data.length": "memory.delays",
    "data.batch_size": "memory.rows",
    "data.context": "that whole episodes are learned from",
}
"""Words that are each training's own, and what says them here."""
SIDE_BY_SIDE = 64
"""Episodes recorded or scored at a time."""


@dataclass(frozen=True)
class Cell:
    """One training: a backbone, its posterior where it has one, and the episodes it learns from."""

    dynamics: str
    posterior: str | None
    delay: int
    cue: bool

    @property
    def name(self) -> str:
        """A folder's name."""
        parts = (self.dynamics, self.posterior, str(self.delay), None if self.cue else "control")
        return "-".join(part for part in parts if part)

    @property
    def data(self) -> str:
        """The recording it learns from."""
        return f"{self.delay}" if self.cue else f"{self.delay}-control"

    def words(self, cfg: DictConfig) -> list[str]:
        """What is chosen on top of the user's own words."""
        length = Recall.length(self.delay)
        latent = [f"dynamics.posterior={self.posterior}", f"dynamics.free_nats={cfg.memory.free_nats}"]
        return [
            *cfg.memory.words,
            f"dynamics={self.dynamics}",
            *(latent if self.posterior else []),
            *(word.format(length=length) for word in cfg.memory.extra.get(self.dynamics, [])),
            f"env.delay={self.delay}",
            f"env.cue={str(self.cue).lower()}",
            f"data.length={length}",
            f"data.batch_size={max(cfg.memory.least_batch, min(cfg.memory.most_batch, cfg.memory.rows // length))}",
        ]


def require_sense(cfg: DictConfig, words: list[str]) -> None:
    """Refuse what cannot be trained or scored, and words that every cell would overrule."""
    for key in ("delays", "controls", "posteriors", "backbones"):
        if not isinstance(cfg.memory[key], ListConfig):
            raise UserError(f"memory.{key}={cfg.memory[key]} must be a list, such as memory.{key}=[{cfg.memory[key]}].")
    for delay in (*cfg.memory.delays, *cfg.memory.controls):
        if check_count("memory.delays", delay) < SHORTEST:
            raise UserError(f"memory.delays={delay} leaves no half of the hallway to imagine: {SHORTEST} is the least.")
    for posterior in cfg.memory.posteriors:
        require_posterior(posterior)
    for word in words:
        key = word.partition("=")[0]
        if key in OVERRULED:
            raise UserError(f"{word} has no effect in experiment=memory, where {OVERRULED[key]} decides.")


def cells(cfg: DictConfig) -> Iterator[Cell]:
    """Short delays first, so that the table grows from the cheap end."""
    for cue, delays in ((False, cfg.memory.controls), (True, cfg.memory.delays)):
        for delay in sorted(delays):
            for name in cfg.memory.backbones:
                has = "posterior" in load_config([f"dynamics={name}"]).dynamics
                for posterior in cfg.memory.posteriors if has else (None,):
                    yield Cell(name, posterior, delay, cue)


def run(cfg: DictConfig, words: list[str], resume: Path | None) -> Path:
    """Record, train and score every cell that has not been; write ``memory.json``, ``memory.md`` and ``memory.png``."""
    require_sense(cfg, words)
    wanted = list(cells(cfg))
    folder = resume or new_folder(cfg, datetime.now())
    cfg.memory.words = [*cfg.memory.words, *words]
    OmegaConf.save(cfg, folder / CONFIG)
    log.info("run folder: %s", folder)
    todo = [cell for cell in wanted if not result_file(folder, cell).exists()]
    with CtrlC() as ctrl_c:
        for cell in {cell.data: cell for cell in todo}.values():
            provide_data(cfg, folder, cell, ctrl_c)
        summarise(wanted, folder)
        for done, said in enumerate(trained(cfg, folder, todo, ctrl_c), 1):
            log.info("%d of %d: %s", done, len(todo), said)
            summarise(wanted, folder)
    if ctrl_c.pressed:
        log.info("\n%s holds what is finished; continue with\n  python scripts/train.py resume=%s", folder, folder)
        raise Interrupted
    log.info("\n%s", (folder / "memory.md").read_text())
    return folder


def trained(cfg: DictConfig, folder: Path, todo: list[Cell], ctrl_c: CtrlC) -> Iterator[str]:
    """Train cells, a few at a time in processes that end with the block; yield what each came to."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(cfg.memory.workers, context, initializer=depend_on_parent)
    try:
        waiting = {pool.submit(train_cell, cfg, str(folder), cell) for cell in todo}
        while waiting and not ctrl_c.pressed:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            yield from map(outcome, done)
    finally:
        for process in multiprocessing.active_children():
            process.kill()
        pool.shutdown(cancel_futures=True)


def outcome(future: Future[str]) -> str:
    """What a training came to; one that failed is said, and the others go on."""
    try:
        return future.result()
    except UserError as error:
        return f"not trained: {error}"
    except BrokenProcessPool as error:
        raise UserError(
            "a training was killed, probably for want of memory: lower memory.workers or memory.delays and continue "
            "with resume=<this run>."
        ) from error


def result_file(folder: Path, cell: Cell) -> Path:
    """Where a cell's scores go; that it exists means that they are complete."""
    return folder / "cells" / cell.name / "result.json"


def provide_data(cfg: DictConfig, folder: Path, cell: Cell, ctrl_c: CtrlC) -> None:
    """Record the episodes of a cell, of uniform actions: some to learn from, others to be scored on."""
    env = load_config(cell.words(cfg)).env
    for part, episodes in (("train", cfg.memory.episodes), ("test", cfg.memory.held_out)):
        target = folder / "data" / cell.data / part
        if target.exists() or ctrl_c.pressed:
            continue
        unfinished = target.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        record_episodes(env, unfinished, episodes, derive_seed(cfg.seed, *part.encode()), cfg.data.limit_gib)
        unfinished.rename(target)


def record_episodes(env: DictConfig, folder: Path, episodes: int, seed: int, limit_gib: float) -> None:
    """Record episodes of equal length side by side in this process: a frame of theirs costs less than a message."""
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


def train_cell(cfg: DictConfig, folder: str, cell: Cell) -> str:
    """Train one world model and score it; runs in a process of its own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(cfg.trainer.threads or max(1, (os.cpu_count() or 1) // cfg.memory.workers))
    lightning.seed_everything(derive_seed(cfg.seed, *cell.name.encode()), verbose=False)
    start, path = time.perf_counter(), result_file(Path(folder), cell).parent
    path.mkdir(parents=True, exist_ok=True)
    own = load_config(cell.words(cfg))
    train, test = (
        Replay.open(Path(folder) / "data" / cell.data / part, cross_resets=False, seed=cfg.seed)
        for part in ("train", "test")
    )
    spaces = Spaces({key: train.layout.spec[key] for key in ("pixels",)}, train.layout.spec["action"][0][0], True)
    module = build_module(own, path, build_model(own, spaces.observation_spec, spaces.action_dim), spaces)
    data = OfflineDataset(train, own.data.batch_size, own.data.length, own.memory.updates)
    fit_offline(own, module, data, path)
    module.to("cpu")
    model = module.acting[0].eval()
    scores, picture = score(model, test.every(own.data.length), cell.delay)
    visualize.write_png(path / "recall.png", picture)
    torch.save(model.state_dict(), path / "weights.pt")
    result = {
        **asdict(cell),
        "scores": scores,
        "episodes": cfg.memory.held_out,
        "updates": data.updates,
        "batch_size": own.data.batch_size,
        "parameters": sum(p.numel() for p in model.dynamics.parameters()),
        "seconds": time.perf_counter() - start,
    }
    write_json(path / "result.json", result)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    return f"{cell.name}: {shown} ({data.updates} updates, {result['seconds']:.0f} s)"


def fit_offline(cfg: DictConfig, module: WorldModelModule, data: OfflineDataset, path: Path) -> None:
    """Train on recorded windows for so many updates, or for so long."""
    trainer = lightning.Trainer(
        accelerator="gpu" if precision.device_of(cfg.trainer.accelerator).type == "cuda" else "cpu",
        devices=1,
        precision=precision.lightning_precision(cfg.trainer.precision),
        max_epochs=1,
        max_time={"minutes": cfg.memory.minutes},
        logger=FrameCurves(path, lambda: data.updates),
        log_every_n_steps=min(cfg.trainer.log_updates, len(data)),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with quietly(NEEDLESS_WARNINGS):
        trainer.fit(module, DataLoader(data, batch_size=None, generator=torch.Generator()))


def score(model: WorldModel, batch: dict[str, Tensor], delay: int) -> tuple[dict[str, float], Any]:
    """Accuracies on held-out episodes, and a picture of what is imagined behind the doors in the first of them."""
    torch.manual_seed(0)
    _, batch = split_context(batch, 0)
    generator = torch.Generator().manual_seed(0)
    parts = [
        recalled(model, {key: value[n : n + SIDE_BY_SIDE] for key, value in batch.items()}, delay, generator)
        for n in range(0, len(batch["action"]), SIDE_BY_SIDE)
    ]
    hits = {task: torch.cat([part[0][task] for part in parts]) for task in TASKS}
    return {task: hit.float().mean().item() for task, hit in hits.items()}, visualize.draw_strip(parts[0][1], 4, 1)


@torch.no_grad()
def recalled(
    model: WorldModel, batch: dict[str, Tensor], delay: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], visualize.OpenLoop]:
    """Where a model is right, by task, episodes first; and a clip of the last frames it sees and those it imagines."""
    doors, n, truth = SHOWN + delay, len(batch["action"]), pixels_to_float(batch["pixels"])

    def imagine(context: int, steps: int) -> tuple[Tensor, Tensor]:
        seen = {key: value[:, :context] for key, value in batch.items()}
        rollout, state, _ = model.observe(seen, model.initial(n))
        future = model.imagine(state, batch["action"][:, context : context + steps], steps, generator)
        frames = model.decode(torch.cat([rollout.feat[:, -4:], future.feat[:, 1:]], dim=1))["pixels"]
        return future.reward, frames

    dark = model.observe(batch, model.initial(n))[0].feat[:, doors : doors + 2].clone()
    inferred = model.heads["reward"](dark, batch["action"][:, doors + 1 : doors + 2])[:, 0]
    imagined, frames = imagine(doors + 1, 2)
    half = SHOWN + (delay + 1) // 2
    _, hall = imagine(half, delay // 2)
    earned = batch["reward"][:, doors + 1] > 0.5
    lit = (WALL + DARK) / 2 / 255
    hits = {
        "imagined": (imagined[:, 0] > 0.5) == earned,
        "inferred": (inferred > 0.5) == earned,
        "room": greener(frames[:, -1]) == greener(truth[:, -1]),
        "hall": (hall[:, 4:] > lit) == (truth[:, half : half + delay // 2] > lit),
    }
    return hits, visualize.OpenLoop(truth[:4, doors - 3 : doors + 3], frames[:4], context=4)


def greener(room: Tensor) -> Tensor:
    """Which quarters [N, 2, 2] of images of a room [N, 3, S, S] are green rather than red."""
    half = room.shape[-1] // 2
    quarters = room.unflatten(-1, (2, half)).unflatten(-3, (2, half)).mean((-1, -3))
    return quarters[:, 1] > quarters[:, 0]


def summarise(wanted: list[Cell], folder: Path) -> None:
    """Tables and the figure of all cells that are finished."""
    files = [result_file(folder, cell) for cell in wanted]
    results = [json.loads(file.read_text()) for file in files if file.exists()]
    write_json(folder / "memory.json", {"tasks": TASKS, "cells": results})
    (folder / "memory.md").write_text("\n\n".join(table(results, task) for task in TASKS) + "\n")
    if results:
        draw(results).savefig(folder / "memory.png", dpi=120)
