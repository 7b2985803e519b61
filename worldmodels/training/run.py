"""Training, as `scripts/train.py` does it, from words on a command line to a run folder."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from worldmodels.common.arguments import split_arguments
from worldmodels.common.build import find_at
from worldmodels.common.files import write_json
from worldmodels.common.terminal import CtrlC, Interrupted
from worldmodels.config import is_group, load_config
from worldmodels.config.aliases import bare
from worldmodels.config.scales import learner_of
from worldmodels.config.words import quoted
from worldmodels.envs import describe
from worldmodels.envs.doctor import require_rendering
from worldmodels.errors import UserError
from worldmodels.evaluation.report import evaluate_finished_run
from worldmodels.runs.edit import NO_RESULTS, override, replayed, require_learned, require_same_model, world_of
from worldmodels.runs.folders import (
    CHECKPOINTS,
    load_weights,
    new_folder,
    read_checkpoint,
    read_config,
    removed_unless_begun,
    save_config,
)
from worldmodels.runs.loading import load_run
from worldmodels.training.loggers import log_scores
from worldmodels.training.malloc import keep_freed_memory
from worldmodels.training.parts import new_parts, parts, without
from worldmodels.training.setup import Training, assemble, rows_kept

log = logging.getLogger(__name__)

NEEDLESS_WARNINGS = (
    ".*does not have many workers",  # batches are made in this process, on purpose
    "Your `IterableDataset` has `__len__`",  # again on purpose
    "You're resuming from a checkpoint that ended before the epoch ended",  # the data module is what resumes
    ".*treespec, LeafSpec",  # between Lightning and torch
)
"""Lightning's warnings in every run, as regular expressions."""

ALWAYS_TOLD = ("dynamics", "latent", "planner", "size")
"""Groups whose choice a log of hyperparameters always holds."""


def train(words: list[str]) -> Path:
    """Start the configuration's ``procedure``, or continue it with ``resume=<run>``. Return its folder."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()
    resume, world_model, overrides = split_words(words)
    if world_model:
        cfg = planner_config(world_model, overrides)
    else:
        cfg = resumed_config(resume, overrides) if resume else load_config(overrides)
    return find_at(cfg.procedure, "procedure")(cfg, overrides, resume)


def split_words(words: list[str]) -> tuple[Path | None, Path | None, list[str]]:
    """Split the runs that ``resume=`` and ``world_model=`` name from the words of the configuration."""
    own, overrides = split_arguments(words, {"resume": Path, "world_model": Path, "data": str}, required=())
    if "data" in own:
        overrides.append(f"data.dataset={own['data']}")
    if "world_model" in own and "resume" in own:
        raise UserError("a run that is resumed knows its world_model: leave world_model= out.")
    return own.get("resume"), own.get("world_model"), overrides


def shown_config(words: list[str]) -> DictConfig:
    """The configuration that ``--help`` is about: that of the run that words name, before they are complete."""
    resume, world_model, overrides = split_words(words)
    run = resume or world_model
    return override(read_config(run), overrides, learned=False) if run else load_config(overrides)


def learn_online(cfg: DictConfig, words: list[str], resume: Path | None) -> Path:
    """Collect and learn in turns, or learn from a recording, then score. The procedure of all but a few experiments."""
    start = time.perf_counter()
    require_rendering(cfg.env)
    checkpoint = read_checkpoint(resume) if resume else None
    folder = resume or new_folder(cfg, datetime.now())
    log.info("run folder: %s", folder)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    lightning.seed_everything(cfg.seed, verbose=False)
    with CtrlC() as ctrl_c, ExitStack() as stack:
        if not resume:
            stack.enter_context(removed_unless_begun(folder))
        training = stack.enter_context(assemble(cfg, folder, ctrl_c, resumed_at(checkpoint)))
        if checkpoint is not None:
            if not cfg.data.dataset:
                require_prefill_over(cfg, checkpoint["counters"], training.data.dataset.schedule.prefill)
            prepare_resume(checkpoint, training)
        save_config(cfg, folder)
        try:
            fit(training, checkpoint and checkpoint["file"])
        except UserError:
            log.info("what was recorded until here is in %s; %s", folder, how_to_go_on(folder))
            raise
    try:
        if ctrl_c.pressed:
            raise KeyboardInterrupt
        score_finished(training, folder, cfg)
    except KeyboardInterrupt:
        data = training.data.dataset
        log.info("\nsaved after %d updates, %d frames; %s", data.updates, data.frames, how_to_go_on(folder))
        raise Interrupted from None
    write_json(folder / "timing.json", training.stopwatch.seconds | {"total": time.perf_counter() - start})
    log.info("%s", time_table(training.stopwatch.seconds, time.perf_counter() - start))
    if "tensorboard" in cfg.trainer.loggers:
        log.info("look at it: %s --logdir %s", shown_path("tensorboard"), folder)
    return folder


def shown_path(program: str) -> str:
    """Return a program as this environment's user can call it."""
    beside = Path(sys.executable).with_name(program)
    return os.path.relpath(beside) if beside.exists() else program


def score_finished(training: Training, folder: Path, cfg: DictConfig) -> None:
    """Score a training that has ended, and let its loggers know."""
    with training.stopwatch("evaluate and imagine"):
        evaluate_finished_run(load_run(folder, device=str(training.trainer.strategy.root_device)), cfg)
    scores = json.loads((folder / "evaluation.json").read_text())
    log_scores(training.trainer.loggers, scores, run_words(cfg), training.data.dataset.clock)


def run_words(cfg: DictConfig) -> dict[str, str | int | float]:
    """Return what distinguishes a run's results from another's: what is swapped most, and all that is not default."""
    default = load_config([]).choices
    files = {group: file for group, file in cfg.choices.items() if file and "/" not in group and "@" not in group}
    told = {group: file for group, file in files.items() if group in ALWAYS_TOLD or file != default.get(group)}
    told |= {bare(word): OmegaConf.select(cfg, bare(word)) for word in cfg.words if not is_group(word)}
    told = {key: value for key, value in told.items() if key.partition(".")[0] not in NO_RESULTS}
    plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in told.items()}
    return {**plain, "task": describe(cfg.env), "seed": cfg.seed, "frames": cfg.frames}


@contextmanager
def suppress_known_warnings() -> Iterator[None]:
    """Leave the warnings out that :data:`NEEDLESS_WARNINGS` names."""
    with warnings.catch_warnings():
        for message in NEEDLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def how_to_go_on(folder: Path) -> str:
    """The commands that an interrupted run leaves to its user."""
    return (
        f"continue with\n  python scripts/train.py resume={folder}\nor score it as it is:\n"
        f"  python scripts/evaluate.py run={folder}   writes evaluation.json\n"
        f"  python scripts/imagine.py run={folder}    writes imagine.json"
    )


def time_table(seconds: dict[str, float], total: float) -> str:
    """Format where the time went."""
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    rows += [("other", total - sum(seconds.values())), ("total", total)]
    return "\n".join(f"{name:<24}{value:>8.1f} s{100 * value / total:>6.1f} %" for name, value in rows)


def prepare_resume(checkpoint: dict[str, Any], training: Training) -> None:
    """Refuse a checkpoint of another architecture. Put a torn one out of the way of those that will be saved."""
    file = Path(checkpoint["file"])
    load_weights(training.module, checkpoint, "", str(file))
    last = file.with_name(CHECKPOINTS[0])
    if file != last and last.exists():
        os.replace(last, last.with_name("torn.ckpt"))
    counters = checkpoint["counters"]
    log.info("continuing from %s: %d updates, %d frames", file, counters["updates"], counters["frames"])


def resumed_at(checkpoint: dict[str, Any] | None) -> int:
    """Return where the curves of a resumed run go on."""
    counters = checkpoint["counters"] if checkpoint else {"clock": 0}
    return counters.get("clock", counters.get("frames"))


def require_prefill_over(cfg: DictConfig, counters: dict[str, int], decisions: int) -> None:
    """A prefill of so many decisions comes before the first update: a run that has made some cannot begin another."""
    if counters["updates"] and decisions > counters["decisions"]:
        raise UserError(
            f"prefill={cfg.prefill} cannot begin again after {counters['updates']} updates and {counters['frames']} "
            "frames: lower it, or start a new run.",
            option="prefill",
            value=cfg.prefill,
        )


def fit(training: Training, checkpoint: str | None) -> None:
    """Fit, and save what was recorded while prefilling too."""
    with suppress_known_warnings(), logging_redirect_tqdm():
        training.trainer.fit(training.module, training.data, ckpt_path=checkpoint, weights_only=True)
    if not training.data.dataset.updates:
        training.checkpoints.save(training.trainer)


def planner_config(folder: Path, words: list[str]) -> DictConfig:
    """The configuration for training a planner on a run's world model, which stays as it is."""
    before = read_config(folder)
    said = {bare(word) for word in words}
    fresh = [
        "optimizer.param_groups=null",  # its model's are without meaning now; a planner brings its own
        "data.dataset=null",  # episodes of its own, unless words name a recording
        "run_dir=null",
        quoted("world_model", folder),
    ]
    words = [*(word for word in fresh if bare(word) not in said), *words]
    cfg = override(before, words, learned=False)
    added = new_parts(cfg, before)
    if added:
        words = [*words, f"new_parts=[{','.join(added)}]"]
        cfg = override(before, words, learned=False)
    require_same(
        without(cfg, added), before, words, f": the world model in {folder} was trained with another", folder, world_of
    )
    if not added and not learner_of(cfg.planner).get("loss_scales"):
        raise UserError(
            f"planner={cfg.choices.planner} has nothing to learn on a frozen world model: use it as it is, with "
            f"`python scripts/evaluate.py run={folder} planner={cfg.choices.planner}`, or name one that learns, such "
            "as planner=actor_critic.",
            option="planner",
            value=cfg.choices.planner,
        )
    return cfg


def require_same(
    cfg: DictConfig,
    before: DictConfig,
    words: list[str],
    because: str,
    path: Path,
    of: Callable[[DictConfig], dict[str, Any]],
) -> None:
    """Refuse a configuration that differs in what weights depend on, or in that part of its environment."""
    require_same_model(cfg, before, words, because, path)
    if of(cfg.env) != of(before.env):
        raise UserError(f"env cannot change{because}.", option="env")


def resumed_config(folder: Path, words: list[str]) -> DictConfig:
    """Return a run's configuration with words on top. What its weights or its replay depend on may not change."""
    before = read_config(folder)
    said = {bare(word) for word in words}
    if "data.capacity" not in said:  # rows on disk are what they are, whatever frames= says now
        words = [f"data.capacity={rows_kept(before)}", *words]
    cfg = override(before, words)
    require_same(
        cfg, before, words, f" when resuming: {folder} was trained with another; start a new run", folder, replayed
    )
    if learner_of(cfg.planner).get("loss_scales"):
        require_learned(cfg, before, folder)
    if optimizer_layout(cfg) != optimizer_layout(before):
        raise UserError(
            f"only the values of learning rates can change when resuming, not the optimizer: {folder} was trained "
            "with another; start a new run."
        )
    return cfg


def optimizer_layout(cfg: DictConfig) -> tuple[str, list[str]]:
    """Return what an optimiser's saved state depends on."""
    return cfg.optimizer.build["_target_"], sorted(parts(cfg))
