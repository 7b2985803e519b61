"""Environments of EnvPool (Weng et al. 2022): many in the threads of one process, for dm_control's states and Atari.

Observations, actions, rewards and ends are those of this project's own environments of the same options. What cannot
be had is refused: frames of dm_control, and snapshots, so that a resumed run begins new episodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from worldmodels.common.build import TARGET
from worldmodels.common.seeds import derive_seed
from worldmodels.common.terminal import tell_once
from worldmodels.envs import PATH, base, describe
from worldmodels.envs.libraries import library
from worldmodels.envs.probe import Probed
from worldmodels.envs.successes import UNKNOWN
from worldmodels.errors import OptionError, UserError, shown

log = logging.getLogger(__name__)

ATARI = "worldmodels/Atari-v0"
FREE = 1e10
"""A bound of actions from which on there is none, MuJoCo's ``mjMAXVAL``."""
Steps = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Plan:
    """What EnvPool is to make: its name of a task, options, steps of its own a decision, and what to say of it."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    repeat: int = 1
    note: str = ""


def plan_of(env: Mapping[str, Any]) -> Plan:
    """Return what EnvPool is to make of an ``env`` group. Raise ``UserError`` for what it cannot."""
    kinds: dict[tuple[str, str | None], Callable[[Mapping[str, Any]], Plan]] = {
        ("worldmodels.envs.dmc.DMC", None): _dm_control,
        ("worldmodels.envs.gym.GymEnv", ATARI): _atari,
    }
    kind = kinds.get((str(env.get(TARGET)), env.get("id")))
    if kind is None:
        reason = f"makes no {describe(env)}, only env=dmc env.obs=state and env=atari: use workers"
        raise OptionError("backend", "envpool", reason).with_path(PATH)
    for key, only in (("stack", 1), ("goal", None)):
        _require(env, key, only, "shows one frame, and no goal")
    return kind(env)


def camel(name: str) -> str:
    """Name a task as EnvPool does: ``humanoid_CMU_run`` is ``HumanoidCMURun``."""
    return "".join(part if part.isupper() else part.capitalize() for part in name.split("_"))


def _dm_control(env: Mapping[str, Any]) -> Plan:
    _require(env, "obs", "state", "draws no frame of dm_control", default="pixels")
    repeat = env.get("action_repeat", 2)
    if str(env["task"]).startswith("lqr"):  # the only domain whose episodes end by what happens in them
        _require(env, "action_repeat", 1, "cannot repeat an action in environments whose episodes end on their own")
    return Plan(f"{camel(env['task'])}-v1", repeat=repeat)


def _atari(env: Mapping[str, Any]) -> Plan:
    kwargs = dict(env.get("kwargs") or {})
    _require(env, "obs", "pixels", "shows games by their frames")
    _require(env, "action_repeat", 1, "repeats actions by env.kwargs.frame_skip")
    _require(kwargs, "life_ends", False, "goes on with a game after a lost life", path=f"{PATH}.kwargs")
    noops, grayscale = kwargs.get("noops", 0), kwargs.get("grayscale", False)
    options = {
        "img_height": env.get("size", 64),
        "img_width": env.get("size", 64),
        "frame_skip": kwargs.get("frame_skip", 4),
        "repeat_action_probability": kwargs.get("sticky", 0.25),
        "full_action_space": kwargs.get("all_actions", False),
        "gray_scale": grayscale,
        "noop_max": max(1, noops),
        "stack_num": 1,
        "use_fire_reset": False,
    }
    if env.get("max_episode_steps"):
        options["max_episode_steps"] = env["max_episode_steps"]
    note = "" if noops else "EnvPool begins Atari's episodes with one idle step, where env.kwargs.noops=0 has none."
    return Plan(f"{camel(kwargs.get('game', 'pong'))}-v5", options, note=note)


def _require(env: Mapping[str, Any], key: str, only: Any, why: str, path: str = PATH, default: Any = None) -> None:
    value = env.get(key, only if default is None else default)
    if value != only:
        raise OptionError(key, value, f"must be {shown(only)} with env.backend=envpool, which {why}").with_path(path)


class Pool:
    """Stands where Gymnasium's ``AsyncVectorEnv`` does, for :class:`~worldmodels.envs.vector.VectorEnv`.

    Raises:
        UserError: EnvPool is not installed, lacks the task, or has it with other observations or actions.
    """

    processes: Sequence[Any] = ()
    parent_pipes: Sequence[Any] = ()

    def __init__(self, env: Mapping[str, Any], num_envs: int, seed: int, probed: Probed) -> None:
        self._name, self.num_envs, self._parts = describe(env), num_envs, dict(probed.state_parts)
        self._observed, self._frames, self._rate = probed.spaces[0], probed.frames_per_step, probed.frame_rate
        self._plan = plan_of(env)
        envpool = library("envpool", "envpool")
        if self._plan.name not in envpool.list_all_envs():
            reason = f"has no {self._plan.name}, which {self._name} would be: use workers"
            raise OptionError("backend", "envpool", reason).with_path(PATH)
        if self._plan.note:
            tell_once(log, self._plan.note)
        first = derive_seed(seed, 0) % (2**31 - num_envs)  # EnvPool's seeds are int32, and number i takes the i-th
        self._pool = envpool.make_gymnasium(self._plan.name, num_envs=num_envs, seed=first, **self._plan.options)
        action = self._pool.action_space
        self._low, self._high = getattr(action, "low", None), getattr(action, "high", None)
        if self._low is not None:
            free = self._high >= FREE
            self._low, self._high = np.where(free, -1.0, self._low), np.where(free, 1.0, self._high)
        kind = (action.n,) if self._low is None else action.shape
        wanted = probed.spaces[1]
        if kind != ((wanted.n,) if hasattr(wanted, "n") else wanted.shape):
            raise UserError(f"{self._name} has other actions in EnvPool ({action}) than here ({wanted}): use workers.")

    def reset_async(self) -> None:
        """Do nothing: it is all done when it is waited for."""

    def reset_wait(self, timeout: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Begin a new episode everywhere."""
        observation, _ = self._pool.reset()
        none = np.zeros(self.num_envs, np.int64)
        return self._seen(observation, none.astype(np.float32)), self._told(none == 0, none)

    def step_async(self, action: np.ndarray) -> None:
        """Take actions, in [-1, 1] or as numbers of choices."""
        if self._low is None:
            self._action = np.asarray(action, np.int32)
        else:
            self._action = base.rescale(action, self._low, self._high)

    def step_wait(self, timeout: float) -> Steps:
        """Step everywhere, as often as actions are repeated; an episode that is over begins anew instead, once."""
        reward, frames = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.int64)
        for _ in range(self._plan.repeat):
            observation, earned, terminated, truncated, info = self._pool.step(self._action)
            first = info["elapsed_step"] == 0  # EnvPool's rewards there are of no step
            reward += np.where(first, 0, earned)
            frames += np.where(first, 0, self._frames)
            if (first | terminated | truncated).any():
                break
        return self._seen(observation, reward), reward, terminated, truncated, self._told(first, frames)

    def call_async(self, method: str, *args: Any) -> None:
        """Refuse to save or restore simulators."""
        if method != "frame_rate":
            raise UserError("env.backend=envpool cannot save or restore its simulators; env.backend=workers can.")

    def call_wait(self, timeout: float) -> list[dict[str, Any]]:
        """Return the rate of frames, the one thing that can be asked."""
        return [{"value": self._rate}] * self.num_envs

    def close(self, terminate: bool = False) -> None:
        """End the threads."""
        self._pool.close()

    def _seen(self, observation: Any, reward: Float32[np.ndarray, " N"]) -> dict[str, np.ndarray]:
        """Return observations as this project's environments show them, finite ones."""
        if isinstance(observation, Mapping):  # some domains tell more than dm_control does, in an order of their own
            parts = [observation[key].reshape(self.num_envs, -1) for key in self._parts]
            seen = {"state": np.concatenate(parts, axis=1).astype(np.float32)}
        else:
            seen = {"pixels": np.repeat(observation, 3 // observation.shape[1], axis=1)}
        for key, space in self._observed.items():
            if key not in seen or seen[key].shape[1:] != space.shape:
                raise UserError(f"{self._name} observes something else in EnvPool than here ({key!r}): use workers.")
        base.require_finite(self._name, seen, float(np.abs(reward).max()))
        return seen

    def _told(self, first: np.ndarray, frames: Int64[np.ndarray, " N"]) -> dict[str, np.ndarray]:
        return {"is_first": first, "frames": frames, "success": np.full(self.num_envs, UNKNOWN)}
