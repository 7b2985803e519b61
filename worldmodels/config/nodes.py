"""Options of the classes that a configuration names, held against their signatures before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldmodels.common.build import PARTIAL, TARGET, find, require_nameable_targets
from worldmodels.common.options import validate
from worldmodels.common.trust import require_nameable
from worldmodels.config.schema import Train
from worldmodels.envs import PATH, own_options
from worldmodels.envs.options import CONSUMERS, keys_of
from worldmodels.errors import OptionError

TRAINING_KEYS = ("loss_scales", "parts")
"""Keys by which a learner's node speaks of its training: scales of its losses, the optimizer's options by part."""
FILLED_IN = ("feat_dim", "goal_dim", "memory_dim")
"""Arguments that a node leaves to the model that it is built for."""
OURS = ("worldmodels", "dynamics", "planners")


def check(cfg: dict[str, Any]) -> dict[str, Any]:
    """Hold a whole configuration, as plain containers, against schemas and signatures. Return it converted."""
    require_nameable_targets(cfg)
    require_nameable(str(cfg.get("procedure", "")), "procedure")
    cfg = validate(Train, cfg)
    optimizer = cfg["optimizer"]
    if (rate := optimizer["build"].get("lr", optimizer["lr"])) != optimizer["lr"]:
        raise OptionError("build.lr", rate, "has no effect: optimizer.lr is the learning rate").with_path("optimizer")
    for key, value in cfg.items():
        if isinstance(value, Mapping) and key != "choices":
            cfg[key] = _checked_env(value) if key == PATH else _checked(value, key)
    return cfg


def _checked_env(env: Mapping[str, Any]) -> dict[str, Any]:
    """An environment, and the one that baselines play in, which is made only when a training is over."""
    inner = {key: _checked(value, f"{PATH}.{key}") if key == "expert" else value for key, value in env.items()}
    checked = _held_env(inner, PATH)
    overrides = checked.get("baseline_overrides") or {}
    held = _held_env({**checked, **overrides}, f"{PATH}.baseline_overrides")
    if overrides:
        checked["baseline_overrides"] = {key: held[key] for key in overrides}
    return checked


def _held_env(env: Mapping[str, Any], path: str) -> dict[str, Any]:
    """An environment's class is asked for its options here if it is one of ours: others may load a simulator."""
    found = dict(env)
    try:
        for consumer in CONSUMERS:
            found |= validate(consumer, {key: env[key] for key in keys_of(consumer) if key in env}, later=True)
        if str(env.get(TARGET, "")).split(".")[0] in OURS:
            own = own_options(found, path)
            found |= validate(find(own.pop(TARGET), path), own, later=True)
    except OptionError as error:
        raise error.with_path(path) from None
    return found


def _checked(node: Any, path: str) -> Any:
    """A node, and those within it, with options converted."""
    if isinstance(node, list):
        return [_checked(item, path) for item in node]
    if not isinstance(node, Mapping):
        return node
    inner = {key: _checked(value, f"{path}.{key}") for key, value in node.items()}
    if not isinstance(node.get(TARGET), str):
        return inner
    own = {key: _stand_in(value) for key, value in inner.items() if not _is_others(key, value)}
    try:
        converted = validate(find(node[TARGET], path), own, later=True)
    except OptionError as error:
        raise error.with_path(path) from None
    return {key: inner[key] if key not in own or _is_node(inner[key]) else converted[key] for key in inner}


def _is_others(key: str, value: Any) -> bool:
    return key in (TARGET, PARTIAL, *TRAINING_KEYS) or (key in FILLED_IN and value is None)


def _is_node(value: Any) -> bool:
    """Return whether a node stands there, or within."""
    if isinstance(value, Mapping):
        return TARGET in value or any(_is_node(item) for item in value.values())
    return isinstance(value, list) and any(_is_node(item) for item in value)


def _stand_in(value: Any) -> Any:
    """Return a stand-in for what will have been built where a node stands, of which nothing is known yet."""
    return object() if _is_node(value) else value
