"""One training of `experiment=memory`, in a process of its own."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from worldmodels.common import precision
from worldmodels.common.files import write_json
from worldmodels.common.frames import write_png
from worldmodels.common.seeds import derive_seed
from worldmodels.common.terminal import show_log
from worldmodels.config import load_config
from worldmodels.data.datamodule import OfflineDataset
from worldmodels.data.prefetch import Batches
from worldmodels.data.replay import Replay
from worldmodels.factory import build_model
from worldmodels.recall.grid import Cell, result_file
from worldmodels.recall.scores import score
from worldmodels.training.logs import FrameCurves
from worldmodels.training.module import WorldModelModule
from worldmodels.training.run import suppress_known_warnings
from worldmodels.training.setup import Spaces, build_module


def train_cell(cfg: DictConfig, folder: str, cell: Cell) -> str:
    """Train one world model and score it. Runs in a process of its own."""
    show_log()
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
    device = precision.prepared_device(own.trainer)
    data = OfflineDataset(Batches(train, own.data.batch_size, own.data.length, device=device), own.memory.updates)
    fit_offline(own, module, data, path)
    module.to("cpu")
    model = module.acting[0].eval()
    held_out = test.all_windows(own.data.length)
    scores, picture = score(model, held_out, cell.delay)
    write_png(path / "recall.png", picture)
    torch.save(model.state_dict(), path / "weights.pt")
    result = {
        **asdict(cell),
        "seed": cfg.seed,
        "scores": scores,
        "episodes": len(held_out["action"]),
        "updates": data.updates,
        "asked_updates": len(data),
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
        log_every_n_steps=min(cfg.trainer.log_every, len(data)),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with suppress_known_warnings():
        trainer.fit(module, DataLoader(data, batch_size=None, generator=torch.Generator()))
