"""Contract of every environment of this project: spaces, seeds, finite numbers, and states that can be saved."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces

from worldmodels.common.columns import GOAL_PREFIX, STATE, cameras
from worldmodels.common.options import AtLeast, MultipleOf
from worldmodels.errors import UserError, literal

Obs = Annotated[Literal["pixels", "state", "both"], "what is observed: frames, a vector or both"]
Size = Annotated[int, MultipleOf(16), "side of the square image, which encoders halve up to four times"]
Repeat = Annotated[int, AtLeast(1), "control steps a decision; rewards are summed"]
Limit = Annotated[int, AtLeast(1), "steps after which an episode is truncated"]
WIDEST_ACTION = 4096
"""Numbers of an action. In float32 they take 16 KiB of every row, more than a frame of 64x64 does."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest number of a row."""
Seed = Annotated[int, "of everything that is drawn at random"]


def observation_space(obs: str, size: int, state_dim: int) -> spaces.Space:
    """The Dict space of an environment: ``pixels`` uint8 [3, S, S] and/or ``state`` float32 [n]."""
    parts: dict[str, spaces.Space] = {}
    if obs != "state":
        parts["pixels"] = spaces.Box(0, 255, (3, size, size), np.uint8)
    if obs != "pixels":
        parts["state"] = spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
    return spaces.Dict(parts)


def check_spaces(name: str, observation: spaces.Space, action: spaces.Space) -> None:
    """Raise a :class:`UserError` unless the spaces are those that every environment here has."""
    keys = list(observation) if isinstance(observation, spaces.Dict) else []
    bare = {key.removeprefix(GOAL_PREFIX) for key in keys}
    if not keys or bare - {STATE, *cameras(bare)}:
        raise UserError(
            f"{name}: observation_space must be a Dict with 'pixels' (further cameras: 'pixels_<name>') and/or 'state' "
            f"(and the same behind 'goal_' where there are goals), got {observation}."
        )
    goals = {key.removeprefix(GOAL_PREFIX): space for key, space in observation.items() if key.startswith(GOAL_PREFIX)}
    observation = spaces.Dict({key: space for key, space in observation.items() if not key.startswith(GOAL_PREFIX)})
    if goals and goals != observation.spaces:
        raise UserError(
            f"{name}: a goal must be observed as the present is, {sorted(observation)}, not {sorted(goals)}."
        )
    for key, box in observation.items():
        if not isinstance(box, spaces.Box):
            raise UserError(f"{name}: observation_space[{key!r}] must be a Box, got {box}.")
    for key in cameras(observation.spaces):
        pixels = observation[key]
        if pixels.dtype != np.uint8 or len(pixels.shape) != 3 or pixels.shape[0] == 0 or pixels.shape[0] % 3:
            raise UserError(
                f"{name}: {key!r} must be uint8 [3, S, S], or more such frames behind one another, the newest last, "
                f"got {pixels.dtype} {pixels.shape}."
            )
        if pixels.shape[1] != pixels.shape[2] or pixels.shape[1] % 16:
            raise UserError(f"{name}: {key!r} must be square, its side a multiple of 16, got {pixels.shape}.")
    state = observation.spaces.get(STATE)
    if state is not None and (state.dtype != np.float32 or len(state.shape) != 1):
        raise UserError(f"{name}: 'state' must be float32 [n], got {state.dtype} {state.shape}.")
    if isinstance(action, spaces.Box):
        unit = action.dtype == np.float32 and len(action.shape) == 1 and action.shape[0] > 0
        if not unit or not (np.all(action.low == -1) and np.all(action.high == 1)):
            raise UserError(f"{name}: a continuous action_space must be Box(-1, 1, (A,), float32), got {action}.")
    elif not isinstance(action, spaces.Discrete | spaces.MultiDiscrete) or np.any(action.start != 0):
        raise UserError(
            f"{name}: action_space must be Box(-1, 1, (A,), float32), Discrete(n) or MultiDiscrete, both from 0, "
            f"got {action}."
        )
    require_width(name, kind_of(action)[1])


def kind_of(action: spaces.Space) -> tuple[bool | tuple[int, ...], int]:
    """Return whether actions are one-hot, or the sizes of several one-hots, and how many numbers an action has."""
    if isinstance(action, spaces.Box):
        return False, action.shape[0]
    if isinstance(action, spaces.Discrete):
        return True, int(action.n)
    return tuple(map(int, action.nvec)), int(action.nvec.sum())


def frame_rate(env: Any) -> float | None:
    """Return how many steps a second an environment tells (``metadata["render_fps"]``); None where it is no rate."""
    rate = (getattr(env, "metadata", None) or {}).get("render_fps")
    known = isinstance(rate, numbers.Real) and not isinstance(rate, bool) and math.isfinite(rate) and rate > 0
    return float(rate) if known else None


def require_width(name: str, width: int) -> None:
    """Refuse actions of more numbers than are sensible to store and to plan with."""
    if width > WIDEST_ACTION:
        raise UserError(
            f"{name} takes actions of {width:,} numbers (of choices one for each, one-hot), and at "
            f"most {WIDEST_ACTION:,} are supported: leave some out with a wrapper."
        )


def as_reward(name: str, reward: Any) -> float:
    """Return a reward as one number, however many brackets are around it. Raise :class:`UserError` if it is none."""
    try:
        array = np.asarray(reward)
    except (TypeError, ValueError):  # a ragged list
        array = np.empty(0)
    if array.dtype.kind not in "biuf" or array.size != 1:
        raise UserError(f"{name} returned {literal(reward)} as its reward, which must be one number; mend step().")
    return float(array.reshape(()))


def require_finite(name: str, observation: Mapping[str, np.ndarray], reward: float) -> None:
    """Raise a :class:`UserError` that names the environment if it returned NaN or infinity, in float32 as rows are."""
    if not abs(reward) <= LARGEST:
        beyond = f", beyond float32's {LARGEST:.3g}" if np.isfinite(reward) else ""
        raise UserError(f"{name} returned a reward of {reward}{beyond}; mend the environment.")
    for key, value in observation.items():
        if value.dtype != np.uint8 and not np.isfinite(value).all():
            where = int(np.flatnonzero(~np.isfinite(value))[0])
            raise UserError(
                f"{name} returned {value.flat[where]} in its observation {key!r} (entry {where}); mend the environment."
            )


def rescale(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Clamp ``action`` to [-1, 1] and map it to [low, high] in float64. Exact where the range is [-1, 1] already."""
    action = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
    unit = (low == -1) & (high == 1)
    return np.where(unit, action, np.clip(low + (action + 1) * 0.5 * (high - low), low, high))


def pack_random(random: np.random.RandomState) -> dict[str, Any]:
    """The exact state of a legacy NumPy generator as plain numbers and one array of bytes."""
    _, key, pos, has_gauss, cached = random.get_state()
    return {"key": key.view(np.uint8), "pos": int(pos), "has_gauss": int(has_gauss), "cached": float(cached)}


def unpack_random(random: np.random.RandomState, state: Mapping[str, Any]) -> None:
    """Write what :func:`pack_random` made back into ``random``."""
    key = np.ascontiguousarray(np.asarray(state["key"], np.uint8)).view(np.uint32)
    random.set_state(("MT19937", key, state["pos"], state["has_gauss"], state["cached"]))


def require_finite_action(name: str, action: np.ndarray | Sequence[float]) -> np.ndarray:
    """``action`` as float32, or a :class:`UserError` where it is not finite."""
    action = np.asarray(action, np.float32)
    if not np.isfinite(action).all():
        raise UserError(f"{name} was given the action {action.tolist()}, which is not finite.")
    return action
