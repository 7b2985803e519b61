"""Hydra's compose, turned into one-sentence errors and near matches."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from worldmodels.errors import UserError, near_match
from worldmodels.scales import OVER_ALL, require_scales


def config_dir() -> Path:
    """The configuration groups: beside the packages in a checkout, inside them once installed."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package.parent / "configs", package / "configs") if path.is_dir())


def load_config(overrides: list[str], name: str = "train") -> DictConfig:
    """Compose a configuration from ``key=value`` words; ``choices`` records the word chosen for each group."""
    with hydra_errors_to_user_errors(overrides, name), initialize_config_dir(str(config_dir()), version_base=None):
        cfg = compose(name, [forced(word) for word in overrides], return_hydra_config=True)
        groups = [word for word in overrides if is_group(word)]
        if len(groups) < len(overrides):
            require_types(cfg, composed(str(config_dir()), name, tuple(groups)), overrides)
        choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("hydra")}
        with open_dict(cfg):
            del cfg.hydra
            cfg.choices = choices
        OmegaConf.resolve(cfg)
    require_counts(cfg)
    require_scales(cfg)
    return cfg


def forced(word: str) -> str:
    """Return a word as Hydra takes it: the factor of any loss may be set at the root, which has few of its own."""
    return f"++{word.lstrip('+')}" if word.lstrip("+").startswith(OVER_ALL) else word


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
def hydra_errors_to_user_errors(overrides: list[str], name: str) -> Iterator[None]:
    """Turn Hydra's errors into :class:`UserError` with a near match."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(str(error), overrides, name)) from error


def _explain(message: str, overrides: list[str], name: str) -> str:
    for override in overrides:
        key, _, value = override.partition("=")
        options = sorted(path.stem for path in (config_dir() / key.partition("@")[0]).glob("[!_]*.yaml"))
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
