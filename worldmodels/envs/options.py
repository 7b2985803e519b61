"""Keys of the ``env`` group beside those of an environment's own class, by what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from worldmodels.common.options import AtLeast, MoreThan, checked, options_of, validate
from worldmodels.envs.shown_goal import with_goal
from worldmodels.envs.stack import stacked

Made = TypeVar("Made")


@checked
@dataclass(frozen=True)
class Workers:
    """Read by the vector of environments."""

    num_envs: Annotated[int, AtLeast(1), "environments, each a process with a seed of its own"] = 1
    step_timeout: Annotated[float, MoreThan(0), "seconds to wait for a worker before it is called hanging"] = 60.0
    backend: Annotated[
        Literal["workers", "envpool"], "envpool: threads of that library, for states of dmc and for atari"
    ] = "workers"


@checked
@dataclass(frozen=True)
class GoalReading:
    """Read by the encoder of goals."""

    goal_zero_indices: Annotated[
        Sequence[Annotated[int, AtLeast(0)]], "numbers of the state that are 0 in a goal, such as velocities"
    ] = ()


@checked
@dataclass(frozen=True)
class Baselines:
    """Read by the evaluation, for what is played beside a planner."""

    baseline_overrides: Annotated[
        Mapping[str, Any] | None, "env keys that change for policies that look at nothing, so that no frame is drawn"
    ] = None
    expert: Annotated[Mapping[str, Any] | None, "a planner scored beside, for D4RL's normalized score"] = None


WRAPPERS = (with_goal, stacked)
"""Wrappers that any environment can have, the innermost first."""
CONSUMERS = (Workers, *WRAPPERS, GoalReading, Baselines)


def keys_of(consumer: Callable[..., Any]) -> list[str]:
    """List the keys that a consumer reads: its options that have a default."""
    return [name for name, option in options_of(consumer).items() if not option.required]


def shared_keys() -> list[str]:
    """List the keys that are not an environment class's own."""
    return [key for consumer in CONSUMERS for key in keys_of(consumer)]


def read(consumer: Callable[..., Made], env: Mapping[str, Any], *given: Any) -> Made:
    """Call a consumer with the keys of an ``env`` group that are its own, after what it is ``given``."""
    own = {key: env[key] for key in keys_of(consumer) if key in env}
    return consumer(*given, **validate(consumer, own, later=True))
