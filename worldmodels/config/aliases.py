"""Words that were renamed: the old ones are taken for one release, with one sentence that names the new."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable

log = logging.getLogger(__name__)

RENAMED = {
    "space": "latent",
    "dynamics.space": "dynamics.latent",
    "dynamics.core.head": "dynamics.core.head_dim",
    "dynamics.core.state": "dynamics.core.state_dim",
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
"""Old key or group to new. An old one that a configuration still has, as ``dynamics=koopman`` has a core's ``state``,
is meant as it stands."""


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
