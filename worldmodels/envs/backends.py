"""What steps environments, by the word of ``env.backend``: Gymnasium's workers, or EnvPool's threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from worldmodels.envs import PATH
from worldmodels.envs.options import Workers, read
from worldmodels.envs.pool import Pool, plan_of
from worldmodels.envs.probe import Probed
from worldmodels.envs.stream import StreamFactory
from worldmodels.errors import OptionError


def _workers(env: dict[str, Any], num_envs: int, seed: int, probed: Probed) -> AsyncVectorEnv:
    factories = [StreamFactory(env, seed, index, probed.spaces, os.getpid()) for index in range(num_envs)]
    return AsyncVectorEnv(
        factories, shared_memory=True, copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED
    )


BACKENDS = {"workers": _workers, "envpool": Pool}


def backend_of(env: Mapping[str, Any]) -> Callable[..., AsyncVectorEnv | Pool]:
    """Return what builds the environments. What EnvPool cannot make is refused before anything is built."""
    try:
        backend = read(Workers, env).backend
    except OptionError as error:
        raise error.with_path(PATH) from None
    if backend == "envpool":
        plan_of(env)
    return BACKENDS[backend]
