"""Training, as `scripts/train.py` does it, from words on a command line to a run folder."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from worldmodels.common.arguments import parse_path, shell_word, split_arguments
from worldmodels.common.build import find_at
from worldmodels.common.files import write_json
from worldmodels.common.terminal import CtrlC, Interrupted
from worldmodels.config import is_group, load_config
from worldmodels.config.aliases import bare
from worldmodels.config.departures import departures
from worldmodels.config.scales import learner_of
from worldmodels.config.words import PATHS, dataset_word, path_word, quoted
from worldmodels.data.storage import ReplayLayout
from worldmodels.envs import describe
from worldmodels.envs.doctor import require_rendering
from worldmodels.errors import UserError
from worldmodels.evaluation.report import evaluate_finished_run
from worldmodels.runs.edit import NO_RESULTS, override, replayed, require_learned, require_same_model, world_of
from worldmodels.runs.folders import (
    CHECKPOINTS,
    load_weights,
    read_checkpoint,
    read_config,
    run_folder,
    save_config,
)
from worldmodels.runs.loading import load_run
from worldmodels.training.checkpoints import full_disks_left_to_main, is_full
from worldmodels.training.closing import how_to_go_on, shown_path, time_table
from worldmodels.training.loggers import log_scores
from worldmodels.training.malloc import keep_freed_memory
from worldmodels.training.parts import new_parts, parts, without
from worldmodels.training.setup import Training, assemble

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
    """Split the runs that ``resume=`` and ``world_model=`` name from the words of the configuration.

    Words about paths are taken as they are, whatever Hydra would read into them.
    """
    known = {key: parse_path if key in ("resume", "world_model") else str for key in PATHS}
    own, overrides = split_arguments(words, known, required=())
    if "world_model" in own and "resume" in own:
        raise UserError("a run that is resumed knows its world_model: leave world_model= out.")
    if "run_dir" in own:
        overrides.append(path_word("run_dir", own["run_dir"]))
    overrides += [dataset_word(own[key]) for key in ("data", "data.dataset") if key in own]
    resume, world_model = (Path(own[key]) if key in own else None for key in ("resume", "world_model"))
    return resume, world_model and world_model.absolute(), overrides


def shown_config(words: list[str]) -> DictConfig:
    """The configuration that ``--help`` is about: that of the run that words name, before they are complete."""
    resume, world_model, overrides = split_words(words)
    run = resume or world_model
    return override(read_config(run), overrides, learned=False) if run else load_config(overrides)


def learn_online(cfg: DictConfig, words: list[str], resume: Path | None) -> Path:
    """Collect and learn in turns, or learn from a recording, then score. The procedure of all but a few experiments."""
    start = time.perf_counter()
    require_rendering(cfg.env)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    lightning.seed_everything(cfg.seed, verbose=False)
    with run_folder(cfg, resume) as folder:
        checkpoint = read_checkpoint(folder) if resume else None
        if checkpoint is not None:
            require_ahead(cfg, read_config(folder), checkpoint["counters"], folder)
        log.info("run folder: %s", folder)
        if departs := departures(cfg):
            log.warning("this is not %s as published: %s", cfg.published, ", ".join(departs))
        seconds = learn(cfg, folder, checkpoint)
        seconds["total"] = time.perf_counter() - start
        write_json(folder / "timing.json", seconds)
    log.info("%s", time_table(seconds))
    if "tensorboard" in cfg.trainer.loggers:
        log.info("look at it: %s", shlex.join([shown_path("tensorboard"), "--logdir", str(folder)]))
    return folder


def learn(cfg: DictConfig, folder: Path, checkpoint: dict[str, Any] | None) -> dict[str, float]:
    """Train in ``folder``, from a checkpoint where there is one, then score. Return the seconds that each part took."""
    with CtrlC() as ctrl_c, assemble(cfg, folder, ctrl_c, resumed_at(checkpoint)) as training:
        if checkpoint is not None:
            if not cfg.data.dataset:
                require_prefill_over(cfg, checkpoint["counters"], training.data.dataset.schedule.prefill)
            prepare_resume(checkpoint, training)
        save_config(cfg, folder)
        try:
            fit(training, checkpoint and checkpoint["file"])
        except UserError:
            if any((folder / "checkpoints" / name).exists() for name in CHECKPOINTS):
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
    return dict(training.stopwatch.seconds)


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


def require_ahead(cfg: DictConfig, before: DictConfig, counters: dict[str, int], folder: Path) -> None:
    """Refuse to resume to less than was made, which cannot be undone."""
    goal = "updates" if cfg.data.dataset else "frames"
    if cfg[goal] != before[goal] and cfg[goal] < counters[goal]:
        raise UserError(
            f"{goal}={cfg[goal]} is lower than the {counters[goal]} {goal} that {folder} has already made: nothing was "
            f"changed; leave {goal}= out to score it as it is, or raise it.",
            option=goal,
            value=cfg[goal],
        )


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
    try:
        with suppress_known_warnings(), logging_redirect_tqdm(), full_disks_left_to_main():
            training.trainer.fit(training.module, training.data, ckpt_path=checkpoint, weights_only=True)
    except OSError as error:
        if not is_full(error):
            raise
        raise UserError(
            f"{error.filename or 'a log'} could not be written ({error.strerror}): free some space; what was learned "
            f"is saved, and goes on with {shell_word('resume', training.checkpoints.folder.parent)}."
        ) from error
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
            f"`python scripts/evaluate.py {shell_word('run', folder)} planner={cfg.choices.planner}`, or name one that "
            "learns, such as planner=actor_critic.",
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
    rows = folder / "replay" / "replay.json"
    if "data.capacity" not in said and before.data.capacity is None and rows.exists():
        words = [f"data.capacity={ReplayLayout.load(rows).rows}", *words]  # whatever frames= says now
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
