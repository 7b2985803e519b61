"""Hydra's compose, turned into one-sentence errors, near matches and exact exit codes."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from worldmodels.errors import UserError, near_match

DONE, MISTAKE, INTERRUPTED = 0, 1, 130
COUNTS = (
    "data.batch_size",
    "data.length",
    "evaluation.context",
    "evaluation.episodes",
    "evaluation.futures",
    "evaluation.imag_horizon",
    "env.num_envs",
    "frames",
    "memory.episodes",
    "memory.held_out",
    "memory.updates",
    "memory.workers",
    "trainer.log_updates",
    "trainer.threads",
    "trainer.watch_updates",
    "updates",
)
"""Keys whose values are whole numbers of at least 1; the parts that are built check their own."""


USERS_TO_MEND = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""What an OSError says when a path or a disk is wrong, not the program."""


class Interrupted(Exception):
    """The user pressed Ctrl-C and everything has been saved."""


def config_dir() -> Path:
    """The configuration groups: beside the packages in a checkout, inside them once installed."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package.parent / "configs", package / "configs") if path.is_dir())


def load_config(overrides: list[str], name: str = "train") -> DictConfig:
    """Compose a configuration from ``key=value`` words; ``choices`` records the word chosen for each group."""
    with one_sentence(overrides, name), initialize_config_dir(str(config_dir()), version_base=None):
        cfg = compose(name, overrides, return_hydra_config=True)
        groups = [word for word in overrides if is_group(word)]
        if len(groups) < len(overrides):
            require_types(cfg, composed(str(config_dir()), name, tuple(groups)), overrides)
        choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("hydra")}
        with open_dict(cfg):
            del cfg.hydra
            cfg.choices = choices
        OmegaConf.resolve(cfg)
    require_counts(cfg)
    return cfg


@cache
def composed(folder: str, name: str, groups: tuple[str, ...]) -> DictConfig:
    """What these groups alone make, to be read only; within ``initialize_config_dir(folder)``."""
    return compose(name, list(groups))


def require_types(cfg: DictConfig, reference: DictConfig, words: list[str]) -> None:
    """Refuse words whose value in ``cfg`` is of another kind than in ``reference``; 1e6 is a whole number."""
    for word in words:
        key = word.partition("=")[0]
        old, new = (OmegaConf.select(where, key) for where in (reference, cfg))
        if isinstance(old, bool) and not isinstance(new, bool):
            raise UserError(f"{key}={new} must be true or false.")
        if isinstance(old, str) and not isinstance(new, str):
            raise UserError(f"{key}={new} must be a word, such as {old}.")
        number = isinstance(old, int | float) and not isinstance(old, bool)
        if number and (isinstance(new, bool) or not isinstance(new, int | float)):
            raise UserError(f"{key}={new} must be a number, such as {old}.")
        if number and isinstance(old, int) and isinstance(new, float):
            if not new.is_integer():
                raise UserError(f"{key}={new} must be a whole number, such as {old}.")
            OmegaConf.update(cfg, key, int(new))


def require_counts(cfg: DictConfig) -> None:
    """Refuse what is not a whole number of at least 1 where only that makes sense."""
    for key in COUNTS:
        value = OmegaConf.select(cfg, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{key}={value} must be a whole number of at least 1.")
    for key in ("seed", "evaluation.seed"):
        value = OmegaConf.select(cfg, key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
            raise UserError(f"{key}={value} must be a whole number from 0 to 4294967295.")


@contextlib.contextmanager
def one_sentence(overrides: list[str], name: str) -> Iterator[None]:
    """Turn Hydra's errors into :class:`UserError` with a near match."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(str(error), overrides, name)) from error


def _explain(message: str, overrides: list[str], name: str) -> str:
    for override in overrides:
        key, _, value = override.partition("=")
        options = sorted(path.stem for path in (config_dir() / key.partition("@")[0]).glob("*.yaml"))
        if is_group(override) and value not in (*options, "null"):
            return f"{key}={value} is not one of {', '.join(options)}.{near_match(value, options)}"
    keys = known_keys(name, [override for override in overrides if is_group(override)])
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if is_group(override):
            continue
        if "=" not in override:
            return f"{override!r} is not of the form key=value.{near_match(key, keys)}"
        if key not in keys and key in message:
            leaf = near_match(key, keys) or near_match(key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in keys])
            return f"there is no key {key!r}; configs/{name}.yaml and its groups hold all of them.{leaf}"
    return re.sub(r"\s+", " ", message).strip()


def is_group(word: str) -> bool:
    """Whether a ``key=value`` word chooses a file of ``configs/<key>/``, as ``planner=cem`` does."""
    group, equals, _ = word.partition("=")
    return bool(equals) and bool(group) and (config_dir() / group.partition("@")[0]).is_dir()


def known_keys(name: str, groups: list[str]) -> list[str]:
    """Every dotted key of the configuration that these groups make."""
    with initialize_config_dir(str(config_dir()), version_base=None):
        return dotted_keys(compose(name, groups))


def dotted_keys(cfg: DictConfig) -> list[str]:
    """Every key of a configuration, groups before what they hold."""

    def walk(node: dict, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(OmegaConf.to_container(cfg, resolve=False), ""))


def take(words: list[str], known: dict[str, Callable[[str], Any]], required: tuple[str, ...]) -> tuple[dict, list[str]]:
    """Split ``key=value`` words into a script's own, converted, and the overrides that are left."""
    own, rest = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            rest.append(word)
            continue
        try:
            own[key] = known[key](value)
        except ValueError:
            raise UserError(f"{key}={value} must be {WHAT[known[key]]}.") from None
    for key in required:
        if key not in own:
            raise UserError(f"say which {key}: {key}=<…>; this script takes {', '.join(f'{k}=' for k in known)}.")
    return own, rest


def whole(text: str) -> int:
    """A whole number of at least 0; 1e5 is one."""
    if float(text) < 0 or not float(text).is_integer():
        raise ValueError(text)
    return int(float(text))


def count(text: str) -> int:
    """A whole number of at least 1."""
    if whole(text) < 1:
        raise ValueError(text)
    return whole(text)


def counts(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between."""
    return [count(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Words with commas between."""
    return text.split(",")


def items(text: str) -> list[str]:
    """What stands between commas, with or without brackets around all of it; items may hold spaces."""
    inner = text.strip().removeprefix("[").removesuffix("]")
    found = [part.strip().strip("'\"") for part in inner.split(",")]
    if not all(found):
        raise ValueError(text)
    return found


def yes(text: str) -> bool:
    """True or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


WHAT = {
    items: "a list such as [one,two]",
    yes: "true or false",
    whole: "a whole number of at least 0",
    count: "a whole number of at least 1",
    counts: "whole numbers of at least 1 with commas between",
}


def run(main: Callable[[list[str]], None]) -> None:
    """Run a script's main with its arguments; exit 0 when done, 1 on a mistake, 130 when interrupted and saved."""
    show_log()
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(MISTAKE)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in USERS_TO_MEND:
            raise
        mend = "free some space and use resume=" if error.errno == errno.ENOSPC else "choose another path"
        sys.stderr.write(f"error: {error.filename or 'a file'} cannot be written ({error.strerror}): {mend}.\n")
        sys.exit(MISTAKE)
    sys.exit(DONE)


def show_log() -> None:
    """Print what is logged, as every script does and every process that one starts."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for package in ("worldmodels", "dynamics", "planners"):  # others' advice does not concern who runs a script
        logging.getLogger(package).setLevel(logging.INFO)


class CtrlC:
    """The first Ctrl-C asks for an orderly stop, the second ends the process at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.pressed:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self.pressed = True
        sys.stderr.write("\nstopping and saving; press Ctrl-C again to stop at once\n")
