"""A stored run's configuration with words on top."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from worldmodels.common.arguments import shell_word
from worldmodels.common.build import find
from worldmodels.config import dotted_keys, is_group, load_config
from worldmodels.config.aliases import bare, renamed
from worldmodels.config.scales import learner_of
from worldmodels.config.words import merge, place_of
from worldmodels.errors import UserError
from worldmodels.factory import model_nodes
from worldmodels.runs.folders import AVERAGE, NotLearned, made_by

NO_RESULTS = ("evaluation", "hydra", "loggers", "readers", "run_dir", "trainer", "visualization")
"""Keys that do not change what is learned."""


def override(before: DictConfig, words: list[str], learned: bool = True) -> DictConfig:
    """Compose a run's configuration anew with ``key=value`` words on top of those it was composed from.

    Another group (``planner=cem``) replaces one, with the options that words gave it.

    Args:
        before: a run's configuration.
        words: as on a command line.
        learned: whether another planner keeps the options of what was learned, where it has such parts too.
    """
    words = renamed(words, lambda: dotted_keys(before))
    for word in words:
        if is_group(word) and place_of(bare(word)) not in before:
            raise UserError(f"{bare(word)} can only be chosen when a run starts.", option=bare(word))
    cfg = load_config(merge(before.words, words, before.choices))
    if learned and (cfg.choices.planner != before.choices.planner or keeps_learned(before)):
        keep_learned(cfg, before, words)
    return cfg


def keeps_learned(cfg: DictConfig) -> bool:
    """Return whether a planner of this configuration took options over from one that was trained before it."""
    return load_config(list(cfg.words)).planner != cfg.planner


def keep_learned(cfg: DictConfig, before: DictConfig, words: list[str]) -> None:
    """Give a planner the options with which its learned parts were trained, and their discount, but for words."""
    planner, learner, trained = cfg.planner, learner_of(cfg.planner), learner_of(before.planner)
    if not learner.get("loss_scales") or learner_signature(planner) != learner_signature(before.planner):
        return
    said = [bare(word) for word in words if bare(word).startswith("planner.")]
    chosen = {key: OmegaConf.select(cfg, key) for key in said}
    with open_dict(cfg):
        for key in find(planner._target_, "planner").trained_with:
            OmegaConf.update(planner, key, OmegaConf.select(before.planner, key), merge=False)
        for key in learner.keys() & trained.keys() - {"_partial_"}:
            learner[key] = trained[key]
        for key, value in chosen.items():
            OmegaConf.update(cfg, key, value, merge=False)
        if "search" in planner and "planner.search.gamma" not in chosen:  # the yaml's own wish, resolved by now
            planner.search.gamma = learner.gamma


def learner_signature(planner: DictConfig) -> dict[str, Any]:
    """Describe what a planner learns, but for sizes: the class, and the options that this says decide it."""
    learner = learner_of(planner)
    options = {
        key: OmegaConf.select(learner, key) for key in getattr(find(learner._target_, "planner"), "identity", ())
    }
    named = {key: sorted(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    return {"learner": learner._target_, **named}


def learned_prefix(checkpoint: dict[str, Any]) -> str:
    """Find where a run's checkpoint keeps what its planner learned."""
    within = AVERAGE + "planner.learner."
    return within if any(key.startswith(within) for key in checkpoint["state_dict"]) else AVERAGE + "planner."


def require_learned(cfg: DictConfig, before: DictConfig, path: Path) -> None:
    """Refuse a planner whose learned parts a run has not trained, or not in that way."""
    if learner_signature(cfg.planner) != learner_signature(before.planner):
        raise NotLearned(
            f"planner={cfg.choices.planner} has learned parts, which {path} lacks (it was trained with "
            f"planner={before.choices.planner}): train them with `python scripts/train.py "
            f"{shell_word('world_model', path)} planner={cfg.choices.planner}`."
        )
    for key in find(cfg.planner._target_, "planner").trained_with:
        trained = OmegaConf.select(before.planner, key)
        if OmegaConf.select(cfg.planner, key) != trained:
            raise UserError(
                f"planner.{key} cannot change: what the planner in {path} learned was trained with {trained}.",
                option=f"planner.{key}",
                value=OmegaConf.select(cfg.planner, key),
                allowed=trained,
            )


def require_same_model(cfg: DictConfig, before: DictConfig, words: list[str], because: str, path: Path) -> None:
    """Refuse words that change what the weights of a world model depend on. The message names the first."""
    now, then = model_nodes(cfg), model_nodes(before)
    if now == then:
        return
    for word in words:
        alone = override(before, [word], learned=False)
        if model_nodes(alone) != then:
            raise UserError(f"{word} cannot change{because}.", option=bare(word))
    if not words:
        place = next(place for place in now | then if now.get(place) != then.get(place))
        raise UserError(
            f"{place} is configured otherwise in this version of the code{because}; use the version that made "
            f"it{made_by(path)}."
        )
    raise UserError(f"{' '.join(words)} cannot change{because}.")


def replayed(env: Mapping[str, Any]) -> dict[str, Any]:
    """An environment without how long to wait for a worker and how long episodes last: replay depends on neither."""
    return {key: value for key, value in env.items() if key not in ("step_timeout", "max_episode_steps")}


def world_of(env: DictConfig) -> dict[str, Any]:
    """An environment without how many of it there are and what steps them, on which no model depends."""
    return {key: value for key, value in replayed(env).items() if key not in ("num_envs", "backend")}
