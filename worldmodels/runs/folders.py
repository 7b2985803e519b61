"""Run folders: what a training leaves behind, read with one-sentence errors."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldmodels.common.arguments import shell_word
from worldmodels.common.build import require_nameable_targets
from worldmodels.common.files import require_writable
from worldmodels.common.trust import require_nameable
from worldmodels.common.version import code_version
from worldmodels.config import load_config
from worldmodels.config.aliases import modernized
from worldmodels.config.sources import require_harmless, resolved
from worldmodels.envs import describe
from worldmodels.errors import UserError, brief
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.runs.lock import LOCK, locked

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
VERSION = "version.txt"
"""The code that a run was made with: a line for its start, and one for each other version that continued it."""
LAST_WITHOUT_WORDS = "fd3e02a"
"""The last commit whose runs do not hold the words that they were composed from."""
CHECKPOINTS = ("last.ckpt", "previous.ckpt")
"""The newest and the one before, each whole."""
AVERAGE = "average.module."
"""Prefix of the averaged weights in a checkpoint."""


class NotLearned(UserError):
    """A planner is asked for whose learned parts a run lacks."""


def new_folder(cfg: DictConfig, now: datetime) -> Path:
    """Make the run folder, which no other run has made. One that holds a run already is refused: two would mix."""
    if cfg.run_dir:
        return named_folder(Path(cfg.run_dir))
    name = f"{now:%Y-%m-%d_%H-%M-%S}_{describe(cfg.env)}_{cfg.choices.dynamics}_{cfg.choices.planner}"
    return unused_folder(Path("runs") / name.replace("/", "-"))


def named_folder(path: Path) -> Path:
    """Make a folder that was asked for by name. It may be there already if nothing is in it."""
    if (path / CONFIG).exists():
        raise UserError(
            f"{path} holds a run already: continue it with {shell_word('resume', path)}, or choose another run_dir."
        )
    if (path / LOCK).exists():
        raise UserError(f"{path} is where another run has just begun: choose another run_dir.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is not empty: choose another run_dir.")
    require_writable(path, "choose another run_dir")
    return path


def unused_folder(path: Path) -> Path:
    """Make a folder, with a number behind its name where others took that in the same second."""
    require_writable(path.parent, "start in a folder that you may write, or say run_dir=<path>")
    for number in itertools.count(1):
        numbered = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with suppress(FileExistsError):
            numbered.mkdir()
            break
    return numbered


@contextmanager
def run_folder(cfg: DictConfig, resume: Path | None) -> Iterator[Path]:
    """Be the one process that writes a run: the one that is resumed, or a new one in a folder that is made for it.

    A new folder is taken back if the run fails before it begins, so that the next try finds it free. Another process's
    never is: its lock refuses this one first.
    """
    path = resume or new_folder(cfg, datetime.now())
    with locked(path), nullcontext() if resume else removed_unless_begun(path):
        yield path


@contextmanager
def removed_unless_begun(path: Path) -> Iterator[None]:
    """Delete a folder if the block fails before there is a configuration in it."""
    try:
        yield
    except BaseException:
        if not (path / CONFIG).exists():
            shutil.rmtree(path)
        raise


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a run's configuration, and which code it is made with, into its folder."""
    OmegaConf.save(cfg, path / CONFIG)
    if (now := code_version()) not in ("", *versions(path)[-1:]):
        (path / VERSION).write_text("".join(f"{version}\n" for version in (*versions(path), now)))


def versions(path: Path) -> list[str]:
    """List the code that a run was made with, newest last; nothing where it was not recorded."""
    return (path / VERSION).read_text().splitlines() if (path / VERSION).is_file() else []


def made_by(path: Path) -> str:
    """Name, in brackets, the code that a run was last trained with."""
    return "".join(f" ({version})" for version in versions(path)[-1:])


def read_config(path: Path) -> DictConfig:
    """The configuration a run was trained with."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; a run folder is what `scripts/train.py` printed at its start.")
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is not a run folder: it has no {CONFIG}.")
    try:
        stored = OmegaConf.load(path / CONFIG)
        stored = OmegaConf.to_container(stored, resolve=False) if isinstance(stored, DictConfig) else {}
        stored = resolved(stored, str(path / CONFIG))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path / CONFIG} cannot be read: {brief(error)}.") from error
    cfg = modernized(OmegaConf.create(stored))
    if "choices" in cfg and "words" not in cfg:
        raise UserError(
            f"{path} is a run of an earlier version: its {CONFIG} lacks the words it was composed from; use commit "
            f"{LAST_WITHOUT_WORDS} for it."
        )
    missing = sorted(load_config([]).keys() - cfg.keys())
    if missing and "words" in cfg:  # keys that came after the run
        cfg.update({key: value for key, value in load_config(list(cfg.words)).items() if key in missing})
    elif missing:
        raise UserError(
            f"{path} is not a run of this version: its {CONFIG} lacks {', '.join(map(str, missing[:3]))}; "
            f"use the version that made it{made_by(path)}."
        )
    plain = OmegaConf.to_container(cfg, resolve=True)
    require_nameable_targets(plain)
    require_nameable(str(plain["procedure"]), "procedure")
    require_harmless(plain.get("words", []))
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


def observation_spec(checkpoint: dict[str, Any]) -> ObservationSpec:
    """Return the observations of the environments that a checkpoint was trained on."""
    observations = checkpoint["spaces"]["observations"]
    return {key: (tuple(shape), getattr(torch, dtype)) for key, (shape, dtype) in observations.items()}


def load_weights(module: torch.nn.Module, checkpoint: dict[str, Any], prefix: str, file: str) -> None:
    """Load the part under ``prefix`` of a checkpoint, a run's ``file``. One of another architecture is refused."""
    weights = {key.removeprefix(prefix): v for key, v in checkpoint["state_dict"].items() if key.startswith(prefix)}
    own = module.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(k for k in own if own[k].shape != weights[k].shape)
    if wrong:
        raise UserError(
            f"{file} was made by another architecture: {len(wrong)} weights differ, {wrong[0]!r} first; "
            "use the dynamics, size and objective it was trained with, and the version of the code"
            f"{made_by(Path(file).parents[1])}."
        )
    module.load_state_dict(weights)
