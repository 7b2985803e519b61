"""Words that were renamed: the old ones are taken for one release, with one sentence that names the new."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldmodels.common.build import TARGET

log = logging.getLogger(__name__)

RENAMED = {
    "space": "latent",
    "dynamics.space": "dynamics.latent",
    "dynamics.core.head": "dynamics.core.head_dim",
    "dynamics.core.state": "dynamics.core.state_dim",
    "dynamics.core.space.state": "dynamics.core.space.state_dim",
    "dynamics.core.rates": "dynamics.core.decay_range",
    "encoder.shift": "encoder.random_shift",
    "env.apart": "env.min_start_goal_cells",
    "env.blind": "env.baseline_overrides",
    "env.legs": "env.max_leg_cells",
    "env.reference": "env.expert",
    "env.still": "env.goal_zero_indices",
    "heads.reward.limit": "heads.reward.symlog_limit",
    "optimizer.average": "optimizer.ema_decay",
    "optimizer.parts": "optimizer.param_groups",
    "planner.acting.kept": "planner.acting.warm_candidates",
    "planner.acting.share": "planner.acting.renoise_fraction",
    "planner.acting.soonest": "planner.acting.min_goal_step",
    "pictures": "visualization",
    "planner.beta": "planner.noise_beta",
    "planner.decay": "planner.sample_decay",
    "planner.judge": "planner.scorer",
    "planner.judge.consistency": "planner.scorer.consistency_weight",
    "planner.learner.pair": "planner.learner.num_q_sampled",
    "planner.learner.q.limit": "planner.learner.q.symlog_limit",
    "planner.relative": "planner.normalize_values",
    "planner.search.decay": "planner.search.sample_decay",
    "planner.search.relative": "planner.search.normalize_values",
    "prefill_planner.beta": "prefill_planner.noise_beta",
    "trainer.log_updates": "trainer.log_every",
    "trainer.watch_updates": "trainer.video_every",
}
"""Old key or group to new. An old one that a configuration has, as a core of one's own may have ``state``, is meant
as it stands."""

GONE = ("planner.learner.trajectories.action_weight",)
"""Keys of stored runs that say nothing of how a run acts, and that nothing reads any more."""

IN_STORED_RUNS = ("dynamics.core.", "pictures", "planner.", "prefill_planner.")
"""Beginnings of the keys that stored runs may hold under their old names. No run has the others."""

MOVED = {
    "dynamics.latents.CategoricalLatent": "worldmodels.nets.categorical.CategoricalLatent",
    "dynamics.latents.GaussianLatent": "worldmodels.nets.distributions.GaussianLatent",
    "dynamics.latents.SimNormLatent": "worldmodels.nets.categorical.SimNormLatent",
    "planners.search.guided.Guided": "planners.guided.Guided",
    "worldmodels.heads.cont.ContinueHead": "worldmodels.heads.arrival.ContinueHead",
    "worldmodels.heads.reward.RewardHead": "worldmodels.heads.arrival.RewardHead",
    "worldmodels.heads.reward.TransitionRewardHead": "worldmodels.heads.transition.TransitionRewardHead",
}
"""Classes of stored runs that live elsewhere now."""


def modernized(stored: DictConfig) -> DictConfig:
    """Return a stored run's configuration with classes where they live now and keys as they are called now."""
    stored_keys = (old for old in RENAMED if old.startswith(IN_STORED_RUNS))
    for old in sorted(stored_keys, key=len, reverse=True):
        parent, _, name = old.rpartition(".")
        node = OmegaConf.select(stored, parent) if parent else stored
        if isinstance(node, DictConfig) and name in node:
            OmegaConf.update(stored, RENAMED[old], node.pop(name), force_add=True)
    for gone in GONE:
        parent, _, name = gone.rpartition(".")
        node = OmegaConf.select(stored, parent)
        if isinstance(node, DictConfig):
            node.pop(name, None)
    return OmegaConf.create(_moved(OmegaConf.to_container(stored, resolve=False)))


def _moved(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: MOVED.get(value, value) if key == TARGET else _moved(value) for key, value in node.items()}
    return [_moved(item) for item in node] if isinstance(node, list) else node


def bare(word: str) -> str:
    """The key of a ``key=value`` word, without the marks that add or delete."""
    return word.lstrip("+~").partition("=")[0]


def renamed(words: Iterable[str], keys: Callable[[], Collection[str]]) -> list[str]:
    """Put new words in the place of old ones, and say so.

    Args:
        words: ``key=value``.
        keys: lists every key of the configuration, where a word needs it.
    """
    return [_renamed(word, keys) for word in words]


def _renamed(word: str, keys: Callable[[], Collection[str]]) -> str:
    key = bare(word)
    old = max((old for old in RENAMED if key == old or key.startswith(old + ".")), key=len, default=None)
    if old is None or (old != "space" and old in keys()):
        return word
    _say(old, RENAMED[old])
    return word.replace(old, RENAMED[old], 1)


@functools.cache
def _say(old: str, new: str) -> None:
    log.warning("%s= is called %s= now, and the old word will go with the next release", old, new)
