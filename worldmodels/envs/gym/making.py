"""Gymnasium's environments made by name: from the present folder too, with a time limit, and how they count frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from worldmodels.common.trust import reach, require_nameable
from worldmodels.envs import rendering
from worldmodels.errors import OptionError, UserError, near_match, reason

LIMIT = "max_episode_steps"
"""Gymnasium's name of the time limit, and this project's."""
SKIP = "frameskip"
"""The argument by which Atari's environments repeat actions on their own: a number, or a range to draw from."""


def make(id: str, kwargs: Mapping[str, Any], max_episode_steps: int | None = None) -> gymnasium.Env:
    """Make an environment by Gymnasium's name, ``module:Name-v0`` too. Raise :class:`OptionError` where it cannot be.

    Args:
        id: of the environment.
        kwargs: further arguments of ``gymnasium.make``.
        max_episode_steps: after which an episode is truncated; None: the environment's own.
    """
    rendering.choose_backend()
    if max_episode_steps is not None:
        if kwargs.get(LIMIT, max_episode_steps) != max_episode_steps:
            raise OptionError(LIMIT, max_episode_steps, f"and kwargs.{LIMIT}={kwargs[LIMIT]} differ: leave one out")
        kwargs = {**kwargs, LIMIT: max_episode_steps}
    for text in (id, *kwargs.values()):
        if module := module_of(text):  # which Gymnasium would import
            name = f"{module}.{text.partition(':')[2]}"
            require_nameable(name, "env.id")
            reach(name)
    try:
        return gymnasium.make(id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        known = "Did you mean" in why or id in gymnasium.registry
        hint = "" if known else near_match(str(id), gymnasium.registry)
        raise OptionError("id", id, f"cannot be made: {why}", hint=hint) from error
    except UserError:
        raise
    except Exception as error:
        raise OptionError("id", id, f"cannot be made: {reason(error)}") from error


def module_of(text: object) -> str:
    """Return the module that Gymnasium imports for ``module:Name-v0``, or nothing for any other text."""
    module, colon, _ = text.partition(":") if isinstance(text, str) else ("", "", "")
    return module if colon and all(part.isidentifier() for part in module.split(".")) else ""


def frames_per_step(env: gymnasium.Env) -> int:
    """Return how many frames one step takes inside, as published results of Atari count them. 1 for all others.

    A range that is drawn from counts as its mean.
    """
    given = (env.spec.kwargs.get(SKIP) if env.spec is not None else None) or 1
    low, high = given if isinstance(given, list | tuple) else (int(given), int(given) + 1)
    frames = (low + high - 1) // 2
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.AtariPreprocessing):
            frames *= env.frame_skip
        env = env.env
    return frames
