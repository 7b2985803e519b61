"""Run folders: what a training leaves behind, and how to take it up again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from planners.base import Planner
from worldmodels import precision
from worldmodels.build import build_model, build_planner, learner_of, prefix_rows, require_length
from worldmodels.cli import dotted_keys, is_group, load_config, require_counts, require_types
from worldmodels.encoders import ObservationSpec
from worldmodels.envs import describe
from worldmodels.errors import UserError, near_match
from worldmodels.model import WorldModel
from worldmodels.module import AVERAGE

log = logging.getLogger(__name__)

MISSING = object()


class NotLearned(UserError):
    """A planner is asked for whose learned parts a run lacks."""


CONFIG = "config.yaml"
CHECKPOINTS = ("last.ckpt", "previous.ckpt")
WEIGHTS = ("dynamics", "space", "size", "encoder", "objective", "heads")
"""Groups that a run's weights depend on."""
WITHIN = ("size", "space", "denoiser")
"""Groups that others are made with."""
NET = "planner.learner.trajectories.net"
"""Where a planner keeps its denoiser."""


@dataclass(frozen=True)
class Run:
    """A trained run, ready to plan and imagine."""

    path: Path
    cfg: DictConfig
    model: WorldModel
    planner: Planner
    checkpoint: dict[str, Any]

    @property
    def frames(self) -> int:
        """Environment frames the model was trained on."""
        return self.checkpoint["counters"]["frames"]

    @property
    def discrete(self) -> bool:
        """Whether actions are one-hot."""
        return self.checkpoint["spaces"]["discrete"]

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""
        return self.checkpoint["spaces"]["action_dim"]


def new_folder(cfg: DictConfig, now: datetime) -> Path:
    """Make the run folder; one that holds a run already is refused, because two runs in one would mix."""
    name = f"{now:%Y-%m-%d_%H-%M-%S}_{describe(cfg.env)}_{cfg.choices.dynamics}_{cfg.choices.planner}"
    path = Path(cfg.run_dir or Path("runs") / name.replace("/", "-"))
    if (path / CONFIG).exists():
        raise UserError(f"{path} holds a run already: continue it with resume={path}, or choose another run_dir.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is not empty: choose another run_dir.")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def removed_unless_begun(path: Path) -> Iterator[None]:
    """Take back what :func:`new_folder` made if a run fails before it begins, so that the next try finds it free."""
    try:
        yield
    except BaseException:
        if not (path / CONFIG).exists():
            shutil.rmtree(path)
        raise


def read_config(path: Path) -> DictConfig:
    """The configuration a run was trained with."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; a run folder is what `scripts/train.py` printed at its start.")
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is not a run folder: it has no {CONFIG}.")
    try:
        cfg = OmegaConf.load(path / CONFIG)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path / CONFIG} cannot be read: {' '.join(str(error).split())}.") from error
    missing = sorted(load_config([]).keys() - (cfg.keys() if isinstance(cfg, DictConfig) else set()))
    if missing:
        raise UserError(
            f"{path} is not a run of this version: its {CONFIG} lacks {', '.join(map(str, missing[:3]))}; "
            "use the version that made it."
        )
    return cfg


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The newest whole checkpoint of a run."""
    folder = path / "checkpoints"
    for name in CHECKPOINTS:
        if not (folder / name).is_file():
            continue
        try:
            return torch.load(folder / name, map_location="cpu", weights_only=True, mmap=False) | {
                "file": str(folder / name)
            }
        except Exception as error:  # torch raises half a dozen kinds for a torn file
            log.warning("%s cannot be read (%s): trying the one before", folder / name, str(error).split("\n")[0])
    raise UserError(f"{path} has no checkpoint that can be read whole in {folder}: the run must be started again.")


def load_run(path: str | Path, overrides: list[str] | None = None, device: str = "cpu") -> Run:
    """Load a trained run: its configuration, its world model and its planner, with averaged weights.

    Args:
        path: the run folder.
        overrides: ``key=value`` words on top of the run's configuration, ``planner=cem`` for example; a planner with
            learned parts can only be one that was trained.
        device: where the model goes.

    Raises:
        UserError: not a run folder; no whole checkpoint; a checkpoint of another architecture.
    """
    path = Path(path)
    before = read_config(path)
    cfg = override(before, overrides or [])
    for group in WEIGHTS:
        if cfg[group] != before[group]:
            raise UserError(f"{group} cannot change: the weights in {path} were trained with another.")
    checkpoint = read_checkpoint(path)
    spaces = checkpoint["spaces"]
    model = build_model(cfg, observation_spec(checkpoint), spaces["action_dim"])
    require_length(cfg, model.dynamics.max_length, prefix_rows(cfg))
    planner = build_planner(cfg.planner, spaces["action_dim"], spaces["discrete"], **model.dynamics.widths)
    load_weights(model, checkpoint, AVERAGE + "model.", checkpoint["file"])
    if list(planner.parameters()):
        require_learned(cfg, before, path)
        load_weights(planner.learned, checkpoint, learned_prefix(before), checkpoint["file"])
    return Run(path, cfg, model.to(device).eval(), planner.to(device).eval(), checkpoint)


def require_learned(cfg: DictConfig, before: DictConfig, path: Path) -> None:
    """Refuse a planner whose learned parts a run has not trained, or not in that way."""
    if setting(cfg.planner) != setting(before.planner):
        raise NotLearned(
            f"planner={cfg.choices.planner} has learned parts, which {path} lacks (it was trained with "
            f"planner={before.choices.planner}): train them with `python scripts/train.py world_model={path} "
            f"planner={cfg.choices.planner}`."
        )
    for key in get_class(cfg.planner._target_).trained_with:
        trained = OmegaConf.select(before.planner, key)
        if OmegaConf.select(cfg.planner, key) != trained:
            raise UserError(
                f"planner.{key} cannot change: what the planner in {path} learned was trained with {trained}."
            )


def setting(planner: DictConfig) -> dict[str, Any]:
    """What a planner learns, but for sizes: the learner, what its trajectories are of, what they are asked for by."""
    learner = learner_of(planner)
    return {
        "learner": learner._target_,
        "labels": sorted(learner.get("labels") or {}),
        "inverse": learner.get("inverse") is not None,
        "actions": OmegaConf.select(learner, "trajectories.actions"),
    }


def learned_prefix(cfg: DictConfig) -> str:
    """Where a run's checkpoint keeps what its planner learned."""
    return AVERAGE + ("planner.learner." if "learner" in cfg.planner else "planner.")


def keep_learned(planner: DictConfig, before: DictConfig) -> DictConfig:
    """A planner chosen for a run, with the options of its learned parts as they were trained, and their discount."""
    learner, trained = learner_of(planner), learner_of(before)
    if learner.get("feat_dim", MISSING) is MISSING or setting(planner) != setting(before):
        return planner
    with open_dict(planner):
        for key in get_class(planner._target_).trained_with:
            OmegaConf.update(planner, key, OmegaConf.select(before, key), merge=False)
        for key in learner.keys() & trained.keys() - {"_partial_"}:
            learner[key] = trained[key]
        if "search" in planner:
            planner.search.gamma = learner.gamma
    return planner


def observation_spec(checkpoint: dict[str, Any]) -> ObservationSpec:
    """What the environments of a checkpoint's training observed."""
    observations = checkpoint["spaces"]["observations"]
    return {key: (tuple(shape), getattr(torch, dtype)) for key, (shape, dtype) in observations.items()}


def load_weights(module: torch.nn.Module, checkpoint: dict[str, Any], prefix: str, file: str) -> None:
    """Load the part of a checkpoint under ``prefix``; a checkpoint of another architecture is refused."""
    weights = {key.removeprefix(prefix): v for key, v in checkpoint["state_dict"].items() if key.startswith(prefix)}
    own = module.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(k for k in own if own[k].shape != weights[k].shape)
    if wrong:
        raise UserError(
            f"{file} was made by another architecture: {len(wrong)} weights differ, {wrong[0]!r} first; "
            f"use the dynamics, size and objective it was trained with, and the version of the code."
        )
    module.load_state_dict(weights)


def override(cfg: DictConfig, overrides: list[str], learned: bool = True) -> DictConfig:
    """A copy of a run's configuration with ``key=value`` words on top; another group (``planner=cem``) replaces one.

    ``+key=value`` adds one to what is there (a label, the scale of another loss), as when a run starts.

    ``learned``: another planner keeps the options of what was learned, where it has such parts too.
    """
    before, cfg = cfg, cfg.copy()
    adding = {word.lstrip("+"): word.startswith("+") for word in overrides}
    for word in sorted(adding, key=is_group, reverse=True):  # a group first, then keys inside it
        key, equals, value = word.partition("=")
        added = adding[word] and "." in key and isinstance(OmegaConf.select(cfg, key.rpartition(".")[0]), DictConfig)
        if not equals:
            raise UserError(f"{word!r} is not of the form key=value.{near_match(key, dotted_keys(cfg))}")
        if is_group(word) and value == cfg.choices.get(key):
            continue  # with the options it has here
        if is_group(word):
            inside = [f"{group}={cfg.choices[group]}" for group in WITHIN if group != key]
            if key != "size":
                inside += [f"size.{name}={'null' if value is None else value}" for name, value in cfg.size.items()]
            fresh, place = load_config([word, *inside]), key.partition("@")[2] or key
            if place not in fresh:
                raise UserError(f"{key} can only be chosen when a run starts.")
            keep = learned and place == "planner"
            cfg[place] = keep_learned(fresh.planner, cfg.planner) if keep else fresh[place]
            if not learned and place == "planner":
                cfg.denoiser = fresh.denoiser  # its own too
            cfg.choices[key] = fresh.choices[key]
        elif not added and OmegaConf.select(cfg, key, default=MISSING) is MISSING:
            raise UserError(f"this run's {CONFIG} has no key {key!r}.{near_match(key, dotted_keys(cfg))}")
        else:
            OmegaConf.update(cfg, key, parse(word, key), merge=False, force_add=added)
            require_types(cfg, before, [word])
    if any(word.startswith("denoiser") for word in overrides) and OmegaConf.select(cfg, NET):
        OmegaConf.update(cfg, NET, cfg.denoiser, merge=False)
    require_counts(cfg)
    return cfg


def open_run(path: str, overrides: list[str]) -> Run:
    """Load a run for a script: where its configuration says, with as many threads as it says."""
    run = load_run(path, overrides)
    if run.cfg.trainer.threads:
        torch.set_num_threads(run.cfg.trainer.threads)
    device = precision.device_of(run.cfg.trainer.accelerator)
    run.model.to(device)
    run.planner.to(device)
    return run


def parse(word: str, key: str) -> Any:
    """The value of a ``key=value`` word."""
    try:
        return OmegaConf.select(OmegaConf.from_dotlist([word]), key)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{word!r} cannot be read: {' '.join(str(error).split())}.") from error
