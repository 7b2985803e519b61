"""Words and yaml files to a configuration, by Hydra's compose. Its errors become one sentence with a near match."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldmodels.common.trust import extend_trust
from worldmodels.config.aliases import bare, renamed
from worldmodels.config.nodes import check
from worldmodels.config.scales import OVER_ALL, require_scales
from worldmodels.config.sources import SEARCH, known_resolvers, require_harmless, require_no_calls, resolved
from worldmodels.errors import UserError, near_match, sentence


def config_dir() -> Path:
    """Find the configuration groups: beside the packages in a checkout, inside them once installed."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package.parent / "configs", package / "configs") if path.is_dir())


SHIPPED = config_dir()


def search_word(folder: str | Path) -> str:
    """Write the word that adds a folder with files of groups."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise UserError(f"{folder} is not a folder with files of groups.", option="config_dir", value=str(folder))
    return f"{SEARCH}=['file://{path}']"


def load_config(
    words: list[str], name: str = "train", config_dir: str | Path | None = None, trust: Iterable[str] = ()
) -> DictConfig:
    """Compose a configuration from ``key=value`` words, resolved and checked.

    ``choices`` records the word chosen for each group, ``words`` what it was composed from.

    Args:
        words: as on a command line.
        name: of the file to begin with.
        config_dir: a folder with further files of the groups, which words may choose too.
        trust: modules that may be named beside this project's parts, as ``trust=`` on a command line.
    """
    extend_trust(trust)
    words = [*([] if config_dir is None else [search_word(config_dir)]), *words]
    require_no_calls(words, "a word")
    words = current(words, name)
    with hydra_errors_to_user_errors(words, name), initialize_config_dir(str(SHIPPED), version_base=None):
        cfg = compose(name, [forced(word) for word in words], return_hydra_config=True)
        choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("hydra")}
        OmegaConf.set_struct(cfg, False)
        del cfg.hydra
        plain = resolved(OmegaConf.to_container(cfg, resolve=False), "")
    cfg = OmegaConf.create(check(plain | {"choices": choices, "words": words}))
    OmegaConf.set_struct(cfg, True)
    require_scales(cfg)
    if cfg.protocol_of and cfg.protocol_of != cfg.published:
        raise UserError(
            f"protocol={choices['protocol']} is how {cfg.protocol_of} plays: choose one of its experiments with it.",
            option="protocol",
            value=choices["protocol"],
        )
    return cfg


OPEN = (OVER_ALL, "env.kwargs.", "env.kwargs=")
"""Beginnings of words that add to a mapping which names few keys or none of its own."""


def forced(word: str) -> str:
    """Return a word as Hydra takes it: what adds to an open mapping needs its plus signs."""
    return f"++{word.lstrip('+')}" if word.lstrip("+").startswith(OPEN) else word


def current(words: list[str], name: str = "train") -> list[str]:
    """Put new words in the place of renamed ones. Refuse those that would lead Hydra to code."""
    with hydra_errors_to_user_errors(words, name):
        require_harmless(words)
        return renamed(words, lambda: keys_with(name, renamed(words, list)))


@contextlib.contextmanager
def hydra_errors_to_user_errors(overrides: list[str], name: str) -> Iterator[None]:
    """Turn Hydra's errors, and those of files that are no yaml, into :class:`UserError` with a near match."""
    with known_resolvers():
        try:
            yield
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:  # the last: planner=null
            raise UserError(_explain(str(error), overrides, name)) from error


def _explain(message: str, overrides: list[str], name: str) -> str:
    try:
        return _explain_group(message, overrides) or _explain_key(message, overrides, name) or sentence(message)
    except OverrideParseException as error:
        return f"{error.override} cannot be read as key=value: {sentence(message)}"
    except (HydraException, OmegaConfBaseException, yaml.YAMLError):
        return sentence(message)  # a file is what is wrong: nothing can be listed with it


def _explain_group(message: str, overrides: list[str]) -> str:
    """Name the word that chooses a file that there is not, or several at once."""
    for override in filter(is_group, overrides):
        key, options = bare(override), group_files(bare(override).partition("@")[0], overrides)
        for value in values_of(override, overrides):
            if f"'{key.partition('@')[0]}/{value}'" in message:
                return f"{key}={value} is not one of {', '.join(options)}.{near_match(value, options)}"
        if value == "null" and "Got NoneType" in message:
            return f"{key}=null is not one of {', '.join(options)}."
    several = next((word for word in overrides if f"Ambiguous value for argument '{forced(word)}'" in message), None)
    if several:
        return f"{several} is several values: scripts/train.py -m makes a run of each, and a list has brackets."
    return ""


def _explain_key(message: str, overrides: list[str], name: str) -> str:
    """Name the word whose key there is not."""
    keys = keys_with(name, overrides)
    for override in overrides:
        key = bare(override)
        if is_group(override):
            continue
        if "=" not in override:
            mend = f" Did you mean {key}=…?" if key in keys else near_match(key, keys)
            return f"{override!r} is not of the form key=value.{mend}"
        if key not in keys and key in message:
            leaf = near_match(key, keys) or near_match(key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in keys])
            return f"there is no key {key!r}.{leaf or f' configs/{name}.yaml and its groups hold all of them.'}"
    return ""


def is_group(word: str) -> bool:
    """Return whether a ``key=value`` word chooses a file of ``configs/<key>/``, as ``planner=cem`` does."""
    group, equals, _ = word.partition("=")
    return bool(equals) and bool(group) and (config_dir() / group.partition("@")[0]).is_dir()


def values_of(word: str, words: Iterable[str]) -> list[str]:
    """List the files that a word chooses: several where it is swept over, as ``planner=cem,mppi``."""
    override = OverridesParser.create().parse_overrides([word])[0]
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(group_files(bare(word).partition("@")[0], words))
    return list(override.sweep_string_iterator()) if override.is_choice_sweep() else [word.partition("=")[2]]


def group_files(group: str, words: Iterable[str]) -> list[str]:
    """List the files of a group, those of the folders that words add among them."""
    return _group_files(group, _searched(words))


def group_names(words: Iterable[str]) -> list[str]:
    """List the groups that there are."""
    return [name for name in _group_files("", _searched(words), ObjectType.GROUP) if name != "hydra"]


@cache
def _group_files(group: str, searched: tuple[str, ...], kind: ObjectType = ObjectType.CONFIG) -> list[str]:
    with initialize_config_dir(str(config_dir()), version_base=None):
        found = GlobalHydra.instance().config_loader().get_group_options(group, kind, "train", list(searched))
    return sorted(name for name in found if not name.startswith("_"))


def _searched(words: Iterable[str]) -> tuple[str, ...]:
    """Words that say where further files of groups are."""
    return tuple(word for word in words if bare(word) == SEARCH)


def keys_with(name: str, words: Iterable[str]) -> list[str]:
    """List every dotted key of the configurations that words choose: several where they sweep over files of groups."""
    words = list(words)
    chosen = {word.partition("=")[0]: values_of(word, words) for word in words if is_group(word)}
    keys: dict[str, None] = {}  # in order, for the nearest of a kind
    for n in range(max(map(len, chosen.values()), default=1)):
        choices = (f"{group}={files[min(n, len(files) - 1)]}" for group, files in chosen.items())
        keys |= dict.fromkeys(known_keys(name, (*_searched(words), *choices)))
    return list(keys)


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
