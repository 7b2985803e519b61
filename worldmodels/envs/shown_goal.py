"""A goal of the user's beside every observation, for environments that show none of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import gymnasium
import numpy as np
from typing_extensions import override

from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.errors import OptionError

GoalOption = str | Sequence[Any] | Mapping[str, Any]
"""An image file, the numbers of a state, or ``{pixels: file, state: numbers}``."""
HELP = "shown as goal_pixels, goal_state: an image file, a state's numbers, {pixels: …, state: …}"


class FixedGoal(gymnasium.Wrapper):
    """Each observation gets a twin ``goal_…`` that is the same always. Rewards and ends stay what they were.

    Args:
        goal: as many of ``pixels`` and ``state`` as are observed.
    """

    def __init__(self, env: gymnasium.Env, goal: GoalOption) -> None:
        super().__init__(env)
        spaces = env.observation_space.spaces
        if any(key.startswith(GOAL_PREFIX) for key in spaces):
            raise OptionError("goal", goal, "has no place where an environment shows goals of its own")
        given = _by_key(goal)
        wrong = sorted(given.keys() ^ spaces.keys())
        if wrong:
            raise OptionError(
                "goal",
                goal,
                f"must give what is observed, {' and '.join(sorted(spaces))}, and gives "
                f"{' and '.join(sorted(given)) or 'nothing'}: the two differ in {wrong[0]}",
                allowed=tuple(sorted(spaces)),
            )
        shown = {key: _of_space(key, value, spaces[key]) for key, value in given.items()}
        self._shown = {GOAL_PREFIX + key: value for key, value in shown.items()}
        twins = {GOAL_PREFIX + key: spaces[key] for key in shown}
        self.observation_space = gymnasium.spaces.Dict({**spaces, **twins})

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        return {**observation, **self._shown}, info

    @override
    def step(self, action: np.ndarray | int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        observation, *outcome = self.env.step(action)
        return {**observation, **self._shown}, *outcome

    def snapshot(self) -> dict[str, Any]:
        """Return the environment's: a goal does not change."""
        return self.env.snapshot()

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        return {**self.env.restore(snapshot), **self._shown}


def with_goal(env: gymnasium.Env, goal: Annotated[GoalOption | None, HELP] = None) -> gymnasium.Env:
    """Show a goal beside what is observed. Return ``env`` itself for None."""
    return env if goal is None else FixedGoal(env, goal)


def _by_key(goal: GoalOption) -> dict[str, Any]:
    if isinstance(goal, Mapping):
        return dict(goal)
    return {"pixels" if isinstance(goal, str) else "state": goal}


def _of_space(key: str, value: Any, space: gymnasium.Space) -> np.ndarray:
    """Return a goal in the shape and type of what is observed. Raise :class:`OptionError` where it cannot be."""
    if key == "pixels":
        return _read_image(value, space.shape[-1])
    try:
        numbers = np.asarray(value, space.dtype)
    except (TypeError, ValueError) as error:
        raise OptionError("goal", value, "is not a list of numbers") from error
    if numbers.shape != space.shape or not np.isfinite(numbers).all():
        raise OptionError("goal", value, f"must be {space.shape[0]} finite numbers for {key}")
    return numbers


def _read_image(path: Any, size: int) -> np.ndarray:
    image = cv2.imread(str(path)) if Path(str(path)).is_file() else None
    if image is None:
        raise OptionError("goal", path, "is not an image that can be read")
    if image.shape[0] != image.shape[1]:
        reason = f"is {image.shape[1]} x {image.shape[0]}: an image must be square, as frames are"
        raise OptionError("goal", path, reason)
    resized = image if len(image) == size else cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1))
