"""Environments behind one set of spaces, one file a family, and their workers. Light to import. Nothing learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from worldmodels.common.build import TARGET, build, find
from worldmodels.common.options import open_ended, options_of
from worldmodels.common.seeds import derive_seed
from worldmodels.envs.options import WRAPPERS, read, shared_keys
from worldmodels.envs.registration import register
from worldmodels.errors import OptionError, UserError, near_match, reason

register()

PATH = "env"
"""Place of an environment's options in a configuration."""


def describe(env: Mapping[str, Any]) -> str:
    """Name an environment in messages: by its task, its id or its class."""
    return str(env.get("task") or env.get("id") or str(env.get(TARGET, "environment")).rpartition(".")[2])


def make(env: Mapping[str, Any], seed: int, index: int = 0) -> gymnasium.Env:
    """Build environment number ``index`` from the ``env`` config group, seeded by (seed, index) and by nothing else.

    The class under ``_target_`` gets the keys that are not shared by all, ``seed``, and ``index`` where it has such an
    argument. Raises :class:`UserError` for an unknown class or key.
    """
    own = own_options(env)
    given = {"seed": derive_seed(seed, index)}
    if "index" in options_of(find(own[TARGET], PATH)):
        given["index"] = index
    try:
        built = build(own, PATH, **given)
        for wrapper in WRAPPERS:
            built = read(wrapper, env, built)
    except OptionError as error:
        raise error.with_path(PATH) from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{describe(env)} could not be built: {reason(error)}.") from error
    return built


def own_options(env: Mapping[str, Any], path: str = PATH) -> dict[str, Any]:
    """Return the keys of an ``env`` group that its class takes, ``_target_`` included. Unknown ones are refused."""
    if not env.get(TARGET):
        raise UserError("env has no _target_: name its class, for example worldmodels.envs.dmc.DMC.")
    shared = shared_keys()
    own = {key: value for key, value in env.items() if key not in shared}
    target = find(own[TARGET], PATH)
    known, any_goes = options_of(target), open_ended(target)
    if "seed" not in known and not any_goes:
        demand = "must take an argument 'seed', so that environments differ and runs repeat"
        raise OptionError(TARGET, own[TARGET], demand).with_path(path)
    for key, value in own.items():
        if key != TARGET and key not in known and not any_goes:
            every = (*known, *shared)
            wrong = f"is not an option of {target.__name__}"
            raise OptionError(key, value, wrong, allowed=every, hint=near_match(key, every)).with_path(path)
    return own
