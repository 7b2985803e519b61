"""Words and yaml files to a configuration, by Hydra's compose; its errors as one sentence with a near match."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldmodels.config.aliases import bare, renamed
from worldmodels.config.nodes import check
from worldmodels.config.scales import OVER_ALL, require_scales
from worldmodels.errors import UserError, near_match


def config_dir() -> Path:
    """Find the configuration groups: beside the packages in a checkout, inside them once installed."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package.parent / "configs", package / "configs") if path.is_dir())


SHIPPED = config_dir()
SEARCH = "hydra.searchpath"
"""Where further files of groups are; Hydra's own key, so that a run's words hold it as they do all else."""


def search_word(folder: str | Path) -> str:
    """Write the word that adds a folder with files of groups."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise UserError(f"{folder} is not a folder with files of groups.", option="config_dir", value=str(folder))
    return f"{SEARCH}=['file://{path}']"


def load_config(words: list[str], name: str = "train", config_dir: str | Path | None = None) -> DictConfig:
    """Compose a configuration from ``key=value`` words, resolved and checked.

    ``choices`` records the word chosen for each group, ``words`` what it was composed from.

    Args:
        words: as on a command line.
        name: of the file to begin with.
        config_dir: a folder with further files of the groups, which words may choose too.
    """
    words = current([*([] if config_dir is None else [search_word(config_dir)]), *words], name)
    with hydra_errors_to_user_errors(words, name), initialize_config_dir(str(SHIPPED), version_base=None):
        cfg = compose(name, [forced(word) for word in words], return_hydra_config=True)
        choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("hydra")}
        OmegaConf.set_struct(cfg, False)
        del cfg.hydra
        plain = OmegaConf.to_container(cfg, resolve=True)
    cfg = OmegaConf.create(check(plain | {"choices": choices, "words": words}))
    OmegaConf.set_struct(cfg, True)
    require_scales(cfg)
    return cfg


def forced(word: str) -> str:
    """Return a word as Hydra takes it: the factor of any loss may be set at the root, which has few of its own."""
    return f"++{word.lstrip('+')}" if word.lstrip("+").startswith(OVER_ALL) else word


def current(words: list[str], name: str = "train") -> list[str]:
    """Put new words in the place of renamed ones."""

    def keys() -> list[str]:
        return known_keys(name, _choosing(renamed(words, list)))

    return renamed(words, keys)


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
    keys = known_keys(name, _choosing(overrides))
    for override in overrides:
        key = bare(override)
        if is_group(override):
            continue
        if "=" not in override:
            return f"{override!r} is not of the form key=value.{near_match(key, keys)}"
        if key not in keys and key in message:
            leaf = near_match(key, keys) or near_match(key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in keys])
            return f"there is no key {key!r}.{leaf or f' configs/{name}.yaml and its groups hold all of them.'}"
    return re.sub(r"\s+", " ", message).strip().rstrip(".") + "."


def _choosing(words: list[str]) -> tuple[str, ...]:
    """Words that choose files, and where those are."""
    return tuple(word for word in words if is_group(word) or bare(word) == SEARCH)


def is_group(word: str) -> bool:
    """Whether a ``key=value`` word chooses a file of ``configs/<key>/``, as ``planner=cem`` does."""
    group, equals, _ = word.partition("=")
    return bool(equals) and bool(group) and (config_dir() / group.partition("@")[0]).is_dir()


@cache
def known_keys(name: str, groups: tuple[str, ...]) -> list[str]:
    """List every dotted key of the configuration that these groups make."""
    with initialize_config_dir(str(config_dir()), version_base=None):
        return dotted_keys(compose(name, list(groups)))


def dotted_keys(cfg: DictConfig) -> list[str]:
    """Every key of a configuration, groups before what they hold."""

    def walk(node: dict, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(OmegaConf.to_container(cfg, resolve=False), ""))
