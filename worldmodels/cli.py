"""Hydra's compose, turned into one-sentence errors, near matches and exact exit codes."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from worldmodels.errors import UserError, near_match

DONE, MISTAKE, INTERRUPTED = 0, 1, 130


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
        require_types(cfg, compose(name, groups) if len(groups) < len(overrides) else cfg, overrides)
        choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("hydra")}
        with open_dict(cfg):
            del cfg.hydra
            cfg.choices = choices
        OmegaConf.resolve(cfg)
    return cfg


def require_types(cfg: DictConfig, reference: DictConfig, words: list[str]) -> None:
    """Refuse words whose value in ``cfg`` is of another kind than in ``reference``; 1e6 is a whole number."""
    for word in words:
        key = word.partition("=")[0]
        old, new = (OmegaConf.select(where, key) for where in (reference, cfg))
        if isinstance(old, bool) and not isinstance(new, bool):
            raise UserError(f"{key}={new} must be true or false.")
        if isinstance(old, int | float) and (isinstance(new, bool) or not isinstance(new, int | float)):
            raise UserError(f"{key}={new} must be a number, such as {old}.")
        if isinstance(old, int) and isinstance(new, float) and new.is_integer():
            OmegaConf.update(cfg, key, int(new))


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
            raise UserError(f"{key}={value} is not a {known[key].__name__}.") from None
    for key in required:
        if key not in own:
            raise UserError(f"say which {key}: {key}=<…>; this script takes {', '.join(f'{k}=' for k in known)}.")
    return own, rest


def run(main: Callable[[list[str]], None]) -> None:
    """Run a script's main with its arguments; exit 0 when done, 1 on a mistake, 130 when interrupted and saved."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for package in ("worldmodels", "dynamics", "planners"):  # others' advice does not concern who runs a script
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(MISTAKE)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
        sys.stderr.write(
            f"error: the disk is full ({error.filename or 'no file named'}): free some space and use resume=.\n"
        )
        sys.exit(MISTAKE)
    sys.exit(DONE)


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
