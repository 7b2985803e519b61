"""A stored run's configuration with words on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from worldmodels.config import dotted_keys, is_group, load_config, require_counts, require_types
from worldmodels.errors import UserError, near_match
from worldmodels.runs.folders import AVERAGE, CONFIG, NotLearned
from worldmodels.scales import OVER_ALL, learner_of, require_scales

WITHIN = ("size", "space", "decoder", "denoiser")
"""Groups that others are made with."""
NET = "planner.learner.trajectories.net"
"""Where a planner keeps its denoiser."""
WEIGHTS = ("dynamics", "space", "size", "nets", "encoder", "decoder", "objective", "heads")
"""Groups that a run's weights depend on."""
MISSING = object()


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
        added = added or key.startswith(OVER_ALL)
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
    require_scales(cfg)
    return cfg


def keep_learned(planner: DictConfig, before: DictConfig) -> DictConfig:
    """A planner chosen for a run, with the options of its learned parts as they were trained, and their discount."""
    learner, trained = learner_of(planner), learner_of(before)
    if not learner.get("loss_scales") or learner_signature(planner) != learner_signature(before):
        return planner
    with open_dict(planner):
        for key in get_class(planner._target_).trained_with:
            OmegaConf.update(planner, key, OmegaConf.select(before, key), merge=False)
        for key in learner.keys() & trained.keys() - {"_partial_"}:
            learner[key] = trained[key]
        if "search" in planner:
            planner.search.gamma = learner.gamma
    return planner


def learner_signature(planner: DictConfig) -> dict[str, Any]:
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


def parse(word: str, key: str) -> Any:
    """The value of a ``key=value`` word."""
    try:
        return OmegaConf.select(OmegaConf.from_dotlist([word]), key)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{word!r} cannot be read: {' '.join(str(error).split())}.") from error


def require_learned(cfg: DictConfig, before: DictConfig, path: Path) -> None:
    """Refuse a planner whose learned parts a run has not trained, or not in that way."""
    if learner_signature(cfg.planner) != learner_signature(before.planner):
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


def replayed(env: DictConfig) -> dict[str, Any]:
    """An environment without how long to wait for a worker, on which replay does not depend."""
    return {key: value for key, value in env.items() if key != "step_timeout"}


def world_of(env: DictConfig) -> dict[str, Any]:
    """An environment without how many of it there are, on which a model does not depend either."""
    return {key: value for key, value in replayed(env).items() if key != "num_envs"}
