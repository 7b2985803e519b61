"""Any Gymnasium id behind this project's spaces: what it observes as pixels or state, what it takes as two kinds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.common.options import AtLeast, Fields, checked, inside, validate
from worldmodels.common.seeds import derive_seed
from worldmodels.common.terminal import tell_once
from worldmodels.envs import base, rendering
from worldmodels.envs.gym.actions import Actions
from worldmodels.envs.gym.images import as_frames, fit, looks_like_image
from worldmodels.envs.gym.keys import Keys, Observations
from worldmodels.envs.gym.making import frames_per_step, make
from worldmodels.envs.successes import UNKNOWN, success_of
from worldmodels.errors import UserError, reason, sentence, shown

log = logging.getLogger(__name__)

SEEDS = 2**31
"""Episodes' seeds lie below it: many simulators take a signed 32-bit one."""


class GymEnv(gymnasium.Env):
    """A Gymnasium environment with action repeat, its images resized and its actions rescaled from [-1, 1].

    ``notes`` holds, as sentences, what was made of its spaces beyond a copy. They are logged once.

    An image environment has only pixels. A vector environment has its vector as state, and its ``rgb_array`` rendering
    as pixels. Every episode has a seed of its own, derived from (seed, episode), so that a snapshot is the episode's
    number and the actions taken in it: exact for every environment that repeats itself, at the price of replaying them.
    A ``TimeLimit`` truncates, nothing else does here.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium declares it as an instance attribute

    @checked
    def __init__(
        self,
        id: Annotated[str, "Gymnasium's name of the environment"],
        obs: base.Obs = "pixels",
        size: base.Size = 64,
        action_repeat: base.Repeat = 1,
        kwargs: Annotated[Mapping[str, Any] | None, "further arguments of gymnasium.make"] = None,
        max_episode_steps: Annotated[
            int | None, AtLeast(1), "environment steps after which an episode is truncated; null: the environment's own"
        ] = None,
        keys: Annotated[Mapping[str, Any] | None, Fields(Keys), "parts of a Dict or Tuple that are observed"] = None,
        seed: base.Seed = 0,
    ) -> None:
        self.name = id
        self._obs, self._size, self._repeat = obs, size, action_repeat
        self.render_mode = None if obs == "state" else "rgb_array"
        self._seed, self._episode = seed, -1
        self._actions: list[np.ndarray] = []
        self._last: dict[str, np.ndarray] = {}
        self._over = True
        given = dict(kwargs or {})
        self._env = make(id, given, max_episode_steps)
        self._require_readable(self._env.observation_space)
        with inside("keys"):
            chosen = Keys(**validate(Keys, dict(keys or {})))
        self._reads = Observations(id, self._env.observation_space, obs, size, chosen)
        self._draws = obs != "state" and not self._reads.images
        if self._draws:
            self._env.close()
            self._env = make(id, {**given, "render_mode": "rgb_array"}, max_episode_steps)
        if rate := base.frame_rate(self._env):
            self.metadata = {**GymEnv.metadata, "render_fps": rate / action_repeat}
        self.observation_space = self._find_observations()
        self._takes = Actions(id, self._env.action_space)
        self.action_space = self._takes.space
        self.frames_per_step = frames_per_step(self._env)
        limit = self._env.spec and self._env.spec.max_episode_steps
        self.episode_decisions = -(-limit // action_repeat) if limit else None
        self.notes = self._find_notes()
        for note in self.notes:
            tell_once(log, note)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Begin the next episode. ``seed`` starts the numbering again from a new seed."""
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._begin(self._episode + 1)
        return self._last, {"frames": 0}

    def step(self, action: np.ndarray | int | np.integer) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Apply ``action`` for ``action_repeat`` steps, fewer if the episode ends. Rewards are summed."""
        if self._over:
            raise UserError(f"{self.name}: the episode is over, or none was begun; call reset() first.")
        given = base.require_finite_action(self.name, np.atleast_1d(action))
        inner, reward, steps, terminated, truncated = self._takes.inner(given), 0.0, 0, False, False
        success = UNKNOWN
        while steps < self._repeat and not (terminated or truncated):
            raw, gained, terminated, truncated, info = self._env.step(inner)
            reward += base.as_reward(self.name, gained)
            success = max(success, success_of(info))
            steps += 1
        self._actions.append(given)
        self._over = bool(terminated or truncated)
        self._last = self._observe(raw)
        base.require_finite(self.name, self._last, reward)
        told = {} if success == UNKNOWN else {"success": bool(success)}
        info = {"frames": steps * self.frames_per_step, **told}
        return self._last, reward, bool(terminated), bool(truncated), info

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
            if self._over:
                raise UserError(
                    f"{self.name}: the episode of a snapshot is over after {len(self._actions)} of its "
                    f"{len(snapshot['tape'])} actions, so it cannot be restored: its time limit is another now."
                )
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
        raw, _ = self._env.reset(seed=derive_seed(self._seed, episode) % SEEDS)
        self._last = self._observe(raw)
        base.require_finite(self.name, self._last, 0.0)

    def _observe(self, raw: Any) -> dict[str, np.ndarray]:
        drawn = {"pixels": self._draw()} if self._draws else {}
        return drawn | self._reads.read(raw)

    def _draw(self) -> np.ndarray:
        try:
            frame = self._env.render()
        except Exception as error:
            # Where drawing fails for want of a Python package, Gymnasium's own message names it.
            if isinstance(error, gymnasium.error.DependencyNotInstalled):
                raise UserError(f"{self.name} cannot be drawn: {sentence(error)}") from error
            if rendering.is_opengls(error):
                raise UserError(rendering.advice(error)) from error
            raise UserError(
                f"{self.name} cannot be drawn ({reason(error)}): its render() must return an image with "
                "render_mode='rgb_array'; mend it, or observe obs=state."
            ) from error
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim not in (2, 3):
            raise UserError(f"{self.name} draws no image of bytes with render_mode='rgb_array'; observe obs=state.")
        return as_frames(fit(frame, self._size))

    def _require_readable(self, space: spaces.Space) -> None:
        """Refuse bytes of a shape that is no image where frames are asked for."""
        is_bytes = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1
        if is_bytes and not looks_like_image(space) and self._obs != "state":
            raise UserError(
                f"{self.name} observes images of shape {space.shape}; they must be [H, W] or have one to four "
                "channels, first or last."
            )

    def _find_observations(self) -> spaces.Dict:
        channels = {"pixels": 3} if self._draws else {key: x.channels for key, x in self._reads.images.items()}
        found: dict[str, spaces.Space] = {
            key: spaces.Box(0, 255, (count, self._size, self._size), np.uint8) for key, count in channels.items()
        }
        if self._reads.vectors is not None:
            found["state"] = spaces.Box(-np.inf, np.inf, (self._reads.vectors.dim,), np.float32)
        if not found:
            raise UserError(f"{self.name}: nothing of {shown(self._env.observation_space)} is observed; see env.keys.")
        return spaces.Dict(found)

    def _find_notes(self) -> list[str]:
        notes = [*self._reads.notes, self._takes.note]
        space = self._env.observation_space
        if self._draws and len(getattr(space, "shape", None) or ()) > 1:
            notes.append(
                f"{self.name}: pixels are what it draws, for what it observes is no image by its shape and bounds"
            )
        if self.frames_per_step > 1:
            notes.append(
                f"{self.name} takes {self.frames_per_step} frames in a step of its own (frameskip): frames are counted "
                f"so, as published, {self.frames_per_step * self._repeat} a decision"
            )
        return [f"{note}." for note in notes if note]
