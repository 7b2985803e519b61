"""Gymnasium's environments made by name: from the present folder too, with a time limit, and how they count frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium

from worldmodels.common.trust import reach, require_nameable
from worldmodels.envs import rendering
from worldmodels.errors import OptionError, UserError, brief, near_match, reason

LIMIT = "max_episode_steps"
"""Gymnasium's name of the time limit, and this project's."""
VERSIONED = re.compile(r"-v\d+$")
"""End of a name of Gymnasium's."""
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
    for text in (id, *filter(names_module, strings(kwargs))):
        if module := module_of(text):  # which Gymnasium would import
            name = f"{module}.{text.partition(':')[2]}"
            require_nameable(name, "env.id")
            reach(name)
    try:
        return gymnasium.make(id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        known = "Did you mean" in str(error) or id in gymnasium.registry
        hint = "" if known else near_match(str(id), gymnasium.registry)
        raise OptionError("id", id, f"cannot be made: {brief(error)}", hint=hint) from error
    except UserError:
        raise
    except Exception as error:
        raise OptionError("id", id, f"cannot be made: {reason(error)}") from error


def module_of(id: object) -> str:
    """Return the module that Gymnasium imports for an id, all before a colon, or nothing."""
    return id.partition(":")[0] if isinstance(id, str) and ":" in id else ""


def names_module(text: str) -> bool:
    """Return whether a text among arguments looks like ``module:Name-v0``, and not like a time or an address."""
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in module.split(".")) or bool(VERSIONED.search(name))


def strings(node: Any) -> Iterator[str]:
    """Yield every text in mappings and lists, however deep."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for item in node.values() if isinstance(node, Mapping) else node:
            yield from strings(item)


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
