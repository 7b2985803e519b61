"""Any Gymnasium id with Box or Discrete actions and image or vector observations, behind this project's spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.common.options import checked
from worldmodels.common.seeds import derive_seed
from worldmodels.common.trust import require_nameable
from worldmodels.envs import base, rendering
from worldmodels.errors import OptionError, UserError, near_match, sentence


class GymEnv(gymnasium.Env):
    """A Gymnasium environment with action repeat, its images resized and its actions rescaled from [-1, 1].

    An image environment has only pixels. A vector environment has its vector as state, and its ``rgb_array`` rendering
    as pixels. Every episode has a seed of its own, derived from (seed, episode), so that a snapshot is the episode's
    number and the actions taken in it: exact for every environment that repeats itself, at the price of replaying them.
    A ``TimeLimit`` truncates, nothing else does here.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium declares it as an instance attribute
    render_mode = "rgb_array"

    @checked
    def __init__(
        self,
        id: Annotated[str, "Gymnasium's name of the environment"],
        obs: base.Obs = "pixels",
        size: base.Size = 64,
        action_repeat: base.Repeat = 1,
        kwargs: Annotated[Mapping[str, Any] | None, "further arguments of gymnasium.make"] = None,
        seed: base.Seed = 0,
    ) -> None:
        self.name = id
        self._obs, self._size, self._repeat = obs, size, action_repeat
        self._seed, self._episode = seed, -1
        self._actions: list[np.ndarray] = []
        self._last: dict[str, np.ndarray] = {}
        self._over = True
        self._env = _make(id, dict(kwargs or {}))
        self._is_image = self._check_observation(self._env.observation_space)
        if not self._is_image and obs != "state":
            self._env.close()
            self._env = _make(id, {**dict(kwargs or {}), "render_mode": "rgb_array"})
        inner = self._env.observation_space
        self.observation_space = base.observation_space(obs, size, int(np.prod(inner.shape)))
        self.action_space = self._find_actions(self._env.action_space)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Begin the next episode. ``seed`` starts the numbering again from a new seed."""
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._begin(self._episode + 1)
        return self._last, {"frames": 0}

    def step(self, action: np.ndarray | int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Apply ``action`` for ``action_repeat`` steps, fewer if the episode ends. Rewards are summed."""
        if self._over:
            raise UserError(f"{self.name}: the episode is over, or none was begun; call reset() first.")
        given = base.require_finite_action(self.name, np.atleast_1d(action))
        inner, reward, frames, terminated, truncated = self._inner_action(given), 0.0, 0, False, False
        while frames < self._repeat and not (terminated or truncated):
            raw, gained, terminated, truncated, _ = self._env.step(inner)
            reward += float(gained)
            frames += 1
        self._actions.append(given)
        self._over = bool(terminated or truncated)
        self._last = self._observe(raw)
        base.require_finite(self.name, self._last, reward)
        return self._last, reward, bool(terminated), bool(truncated), {"frames": frames}

    def render(self) -> np.ndarray:
        """Return the present frame, uint8 [S, S, 3]."""
        if "pixels" not in self._last:
            raise UserError(f"{self.name} has no frame: ask for obs=pixels or both, and call reset() first.")
        return self._last["pixels"].transpose(1, 2, 0)

    def snapshot(self) -> dict[str, Any]:
        """Return the seed, the episode's number, its actions so far and what they led to."""
        return {
            "seed": self._seed,
            "episode": self._episode,
            "tape": np.array(self._actions, np.float32),
            "observed": {key: value.copy() for key, value in self._last.items()},
        }

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Replay the snapshot's episode from its seed and return its observation.

        Raises :class:`UserError` if the replay ends elsewhere: the environment then depends on more than its seed.
        """
        self._seed, episode = int(snapshot["seed"]), int(snapshot["episode"])
        if episode < 0:
            self._episode, self._over, self._actions, self._last = -1, True, [], {}
            return self._last
        self._begin(episode)
        for action in np.asarray(snapshot["tape"], np.float32):
            if not self._over:
                self.step(action)
        for key, value in snapshot["observed"].items():
            if not np.array_equal(np.asarray(value), self._last[key]):
                raise UserError(
                    f"{self.name} does not repeat itself: {len(self._actions)} actions from the same seed led to "
                    f"another {key!r}, so its snapshots cannot be restored; make it depend on reset(seed=...) alone."
                )
        return self._last

    @override
    def close(self) -> None:
        self._env.close()

    def _begin(self, episode: int) -> None:
        self._episode, self._actions, self._over = episode, [], False
        raw, _ = self._env.reset(seed=derive_seed(self._seed, episode))
        self._last = self._observe(raw)
        base.require_finite(self.name, self._last, 0.0)

    def _observe(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        observation = {}
        if self._obs != "state":
            observation["pixels"] = self._resize(raw if self._is_image else self._draw())
        if self._obs != "pixels":
            observation["state"] = np.array(raw, np.float32).ravel()
        return observation

    def _draw(self) -> np.ndarray:
        try:
            frame = self._env.render()
        except Exception as error:
            # Where drawing fails for want of a Python package, Gymnasium's own message names it.
            if isinstance(error, gymnasium.error.DependencyNotInstalled):
                raise UserError(f"{self.name} cannot be drawn: {sentence(error)}") from error
            raise UserError(rendering.advice(error)) from error
        if not isinstance(frame, np.ndarray):
            raise UserError(f"{self.name} draws nothing with render_mode='rgb_array'; observe obs=state.")
        return frame

    def _resize(self, image: np.ndarray) -> np.ndarray:
        """Resize [H, W], [H, W, 1] or [H, W, 3] to [3, S, S]. Averaging over areas keeps small things visible."""
        image = np.ascontiguousarray(image, np.uint8)
        if image.shape[:2] != (self._size, self._size):
            image = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA)
        if image.ndim == 2 or image.shape[-1] == 1:
            image = np.repeat(image.reshape(self._size, self._size, 1), 3, axis=-1)
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def _check_observation(self, space: spaces.Space) -> bool:
        """Return True for images, False for vectors.

        Anything else, or an ``obs`` the environment cannot give, is refused.
        """
        if not isinstance(space, spaces.Box):
            raise UserError(f"{self.name} observes {space}; only images and vectors (Box spaces) are supported.")
        if space.dtype != np.uint8 or len(space.shape) < 2:
            return False
        if len(space.shape) > 3 or (len(space.shape) == 3 and space.shape[-1] not in (1, 3)):
            raise UserError(f"{self.name} observes images of shape {space.shape}; they must be [H, W], [H, W, 1] or 3.")
        if self._obs != "pixels":
            raise UserError(f"{self.name} observes images and has no state vector; use obs=pixels.")
        return True

    def _find_actions(self, space: spaces.Space) -> spaces.Space:
        if isinstance(space, spaces.Discrete):
            return spaces.Discrete(int(space.n))
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise UserError(f"{self.name} takes actions from {space}; only Box and Discrete are supported.")
        if not space.is_bounded():
            raise UserError(f"{self.name} has actions without bounds ({space}), so [-1, 1] cannot be mapped to them.")
        return spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32)

    def _inner_action(self, action: np.ndarray) -> np.ndarray | int:
        space = self._env.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + int(action[0])
        low, high = np.ravel(space.low).astype(np.float64), np.ravel(space.high).astype(np.float64)
        return base.rescale(action, low, high).astype(space.dtype).reshape(space.shape)


def _make(id: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    rendering.choose_backend()
    for text in (id, *kwargs.values()):
        module, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
        if colon and all(part.isidentifier() for part in module.split(".")):  # which Gymnasium would import
            require_nameable(f"{module}.{name}", "env.id")
    try:
        return gymnasium.make(id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        known = "Did you mean" in reason or id in gymnasium.registry
        hint = "" if known else near_match(str(id), gymnasium.registry)
        raise OptionError("id", id, f"cannot be made: {reason}", hint=hint) from error
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise OptionError("id", id, f"cannot be made: {type(error).__name__}: {reason}") from error
