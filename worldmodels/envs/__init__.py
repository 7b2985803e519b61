"""Environments behind one set of spaces, one file a family, and their workers. Light to import; nothing learns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from worldmodels.common.seeds import derive_seed
from worldmodels.envs.shown_goal import with_goal
from worldmodels.envs.stack import stacked
from worldmodels.errors import UserError, near_match

VECTOR_KEYS = ("num_envs", "step_timeout", "blind", "reference", "still")
"""Keys of the ``env`` group that belong to the vector of environments or to a model, not to one environment."""
WRAPPER_KEYS = ("goal", "stack")
"""Keys that belong to what any environment can be wrapped in."""


def describe(env: Mapping[str, Any]) -> str:
    """What to call this environment in messages: its task, its id or its class."""
    return str(env.get("task") or env.get("id") or str(env.get("_target_", "environment")).rpartition(".")[2])


def make(env: Mapping[str, Any], seed: int, index: int = 0) -> gymnasium.Env:
    """Build environment number ``index`` from the ``env`` config group, seeded by (seed, index) and by nothing else.

    The class under ``_target_`` gets the group's keywords and ``seed``, and ``index`` where it has such an argument.
    Raises :class:`UserError` for an unknown class or keyword.
    """
    options = {key: value for key, value in env.items() if key not in VECTOR_KEYS + WRAPPER_KEYS}
    target = options.get("_target_")
    if not target:
        raise UserError("The environment has no _target_: name its class, for example worldmodels.envs.dmc.DMC.")
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except Exception as error:
        raise UserError(f"The environment class {target!r} cannot be loaded: {error}") from error
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "seed" not in parameters and not open_ended:
        raise UserError(f"{target} must accept a keyword argument 'seed', so that environments differ and runs repeat.")
    for key in options:
        if not key.startswith("_") and key not in parameters and not open_ended:
            raise UserError(f"{target} has no option {key!r}.{near_match(key, parameters)}")
    extra = {"index": index} if "index" in parameters else {}
    try:
        built = instantiate(options, seed=derive_seed(seed, index), _convert_="all", **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{describe(env)} could not be built: {error.__cause__ or error}") from error
    return stacked(with_goal(built, env.get("goal")), env.get("stack", 1))
