"""What `scripts/train.py` does, from words on a command line to a run folder."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from worldmodels.cli import CtrlC, Interrupted, load_config
from worldmodels.errors import UserError
from worldmodels.evaluation import write_json
from worldmodels.runs import CONFIG, FIXED, load_run, new_folder, override, read_checkpoint, read_config
from worldmodels.scoring import finish
from worldmodels.training import Training, assemble

log = logging.getLogger(__name__)


def train(words: list[str]) -> Path:
    """Start a run, or continue one with ``resume=<run>``; return its folder."""
    start = time.perf_counter()
    cfg = load_config([word for word in words if not word.startswith("resume=")])
    resume = next((word.partition("=")[2] for word in words if word.startswith("resume=")), None)
    checkpoint = None
    if resume:
        folder = Path(resume)
        cfg = resumed_config(folder, [word for word in words if not word.startswith("resume=")])
        checkpoint = read_checkpoint(folder)["file"]
    else:
        folder = new_folder(cfg, datetime.now())
        OmegaConf.save(cfg, folder / CONFIG)
    log.info("run folder: %s", folder)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    lightning.seed_everything(cfg.seed, verbose=False)
    with CtrlC() as ctrl_c:
        with assemble(cfg, folder, ctrl_c) as training:
            fit(training, checkpoint)
        if ctrl_c.pressed:
            log.info("saved; continue with resume=%s, or score it with scripts/evaluate.py run=%s", folder, folder)
            raise Interrupted
    with training.watch("evaluate and imagine"):
        finish(load_run(folder, device=str(training.module.device)), cfg)
    write_json(folder / "timing.json", training.watch.seconds | {"total": time.perf_counter() - start})
    log.info("%s", time_table(training.watch.seconds, time.perf_counter() - start))
    log.info("look at it: tensorboard --logdir %s", folder)
    return folder


def time_table(seconds: dict[str, float], total: float) -> str:
    """Where the time went."""
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    rows += [("other", total - sum(seconds.values())), ("total", total)]
    return "\n".join(f"{name:<24}{value:>8.1f} s{100 * value / total:>6.1f} %" for name, value in rows)


def fit(training: Training, checkpoint: str | None) -> None:
    """Fit; what was recorded before an environment failed, or while prefilling, is saved too."""
    try:
        training.trainer.fit(training.module, training.data, ckpt_path=checkpoint, weights_only=True)
    except UserError:
        training.checkpoints.save(training.trainer)
        raise
    if not training.data.dataset.updates:
        training.checkpoints.save(training.trainer)


def resumed_config(folder: Path, words: list[str]) -> DictConfig:
    """A run's configuration with words on top; what its weights or its replay depend on may not change."""
    before = read_config(folder)
    cfg = override(before, words)
    for group in FIXED:
        if cfg[group] != before[group]:
            raise UserError(f"{group} cannot change when resuming: {folder} was trained with another; start a new run.")
    return cfg
