"""What a configuration may name: parts of this project, optimisers, and modules that the user says are trusted.

A run folder may come from anybody, and whatever its configuration names is called. So names are looked up here before
anything is imported, and again once it is known what they stand for. Trust is given by whoever starts the process, on a
command line, in Python or in the environment, which workers inherit; no file can give it. Imports no torch.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable
from typing import Any

from worldmodels.errors import UserError

VARIABLE = "WORLDMODELS_TRUST"
"""Environment variable that holds the trusted modules, with commas between."""
PARTS = (
    "dynamics",
    "planners",
    "worldmodels.heads",
    "worldmodels.nets",
    "worldmodels.objectives",
    "worldmodels.data.readers",
    "worldmodels.training.losses",
    "worldmodels.training.optim",
)
"""Modules whose classes may be named anywhere: building one neither reads nor writes a file."""
BASES = {
    "worldmodels.envs": "gymnasium.core.Env",
    "torch.optim": "torch.optim.optimizer.Optimizer",
    "pytorch_optimizer": "torch.optim.optimizer.Optimizer",
}
"""Modules of whose classes those may be named that inherit from one."""
PLACES = {
    "loggers": ("worldmodels.training.loggers", "worldmodels.training.logs.FrameCurves"),
    "visualization": ("worldmodels.visualization",),
    "procedure": ("worldmodels.training.run.learn_online", "worldmodels.recall.procedure.run"),
}
"""Functions and classes, or modules of such, that one place of the configuration may name and no other."""


def extend_trust(modules: Iterable[str]) -> None:
    """Let configurations name what these modules define, in this process and in those that it starts."""
    known = trusted()
    os.environ[VARIABLE] = ",".join([*known, *(module for module in modules if module not in known)])


def trusted() -> list[str]:
    """List the modules that the user trusts."""
    return [name for name in map(str.strip, os.environ.get(VARIABLE, "").split(",")) if name]


def require_nameable(name: str, place: str) -> None:
    """Refuse a name of what is neither ours nor trusted. Nothing is imported.

    Args:
        name: of a class or function, with its module.
        place: where it stands, as ``planner._target_``.
    """
    if not _below(name, (*PARTS, *BASES, *_for(place), *trusted())):
        raise _refusal(name, place, "")


def reach(name: str) -> None:
    """Let a trusted name be found in a file of the present folder, behind all else, as ``python -m`` would find it."""
    here = os.getcwd()
    if _below(name, trusted()) and here not in sys.path:
        sys.path.append(here)


def require_target(found: Any, name: str, place: str) -> None:
    """Refuse what a name turned out to stand for: another's under a name of ours, or nothing to be built.

    Args:
        found: what ``name`` stands for.
        name: as in :func:`require_nameable`.
        place: likewise.
    """
    module, own = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    is_class = inspect.isclass(found)
    if not (is_class or inspect.isroutine(found)) or not isinstance(module, str) or not isinstance(own, str):
        raise _refusal(name, place, "is neither a class nor a function")
    full = f"{module}.{own}"
    if _below(full, trusted()):
        return
    public = "." not in own and not own.startswith("_")
    if public and _below(full, _for(place)):
        return
    if public and is_class:
        bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
        if _below(full, PARTS) or any(_below(full, (room,)) and base in bases for room, base in BASES.items()):
            return
    raise _refusal(name, place, "" if full == name else f"is {full}", module)


def _for(place: str) -> tuple[str, ...]:
    return PLACES.get(place.partition(".")[0], ())


def _below(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _refusal(name: str, place: str, why: str, module: str = "") -> UserError:
    module = module or name.rpartition(".")[0] or name
    return UserError(
        f"{place}={name} {f'{why}, which ' if why else ''}is no part that a configuration may name: if you know "
        f"what it does and who wrote it, say trust=[{module}], or {VARIABLE}={module} in the environment.",
        option=place,
        value=name,
        allowed=(*PARTS, *BASES, *_for(place), *trusted()),
    )
