"""Every task of ``dm_control.suite``, with exact snapshots, behind this project's spaces."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.common.options import Fields, checked
from worldmodels.envs import base, rendering
from worldmodels.errors import OptionError, UserError, near_match, sentence

QUALITIES = {"full": {}, "fast": {"shadow": False, "reflection": False}}
"""Rendering flags of each ``render.quality``."""


@checked
@dataclass(frozen=True)
class Render:
    """How frames are drawn."""

    quality: Annotated[Literal["full", "fast"], "fast: no shadows, no reflections"] = "full"


CAMERAS = {"quadruped": 2, "dog": "y-axis"}
"""Domains whose first camera does not show the body well enough to learn from; everywhere else it is camera 0."""
STEP_LIMIT = 1000
"""Control steps after which an episode is truncated where the suite sets no limit (``lqr`` only)."""
MODEL_FIELDS = (
    "body_pos",  # manipulator, stacker: where the target is
    "body_quat",  # manipulator
    "geom_pos",  # fish, reacher, swimmer: where the target is
    "geom_size",  # reacher
    "geom_rgba",  # fish
    "site_pos",  # finger: where the target is
    "site_size",  # finger
    "site_rgba",  # finger
    "light_pos",  # swimmer
    "wrap_prm",  # point_mass: how the actuators are mixed
    "hfield_data",  # quadruped_escape: the terrain
    "dof_damping",  # finger at a reset, lqr when it is built
    "jnt_stiffness",  # lqr when it is built
)
"""Parts of the *model* that tasks draw anew; without them a state restored in another episode is another problem."""


def load_suite() -> Any:
    """``dm_control.suite``, imported only once the rendering back end is decided."""
    backend = rendering.choose_backend()
    try:
        from dm_control import suite
    except Exception as error:
        # PyOpenGL raises whatever it likes (AttributeError, RuntimeError) where a GL library is missing.
        raise UserError(rendering.advice(error, backend)) from error
    return suite


def find_task(task: str) -> tuple[str, str]:
    """The (domain, task) pair behind ``<domain>_<task>``, looked up, never split: both may hold underscores."""
    known = {"_".join(pair): pair for pair in load_suite().ALL_TASKS}
    if task not in known:
        reason = "is not a task of dm_control.suite"
        raise OptionError("task", task, reason, allowed=tuple(known), hint=near_match(task, known))
    return known[task]


class DMC(gymnasium.Env):
    """A dm_control task with action repeat, drawn only if pixels are wanted.

    Actions in [-1, 1] map to the actuators' ranges (taken as they are where the suite sets no range: ``lqr``). Only a
    discount of 0 terminates.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium declares it as an instance attribute
    render_mode = "rgb_array"

    @checked
    def __init__(
        self,
        task: Annotated[str, "<domain>_<task> of dm_control.suite"],
        obs: base.Obs = "pixels",
        size: base.Size = 64,
        action_repeat: base.Repeat = 2,
        camera: Annotated[int | str | None, "name or number; null: one that shows the body"] = None,
        render: Annotated[Mapping[str, Any] | None, Fields(Render), "how frames are drawn"] = None,
        seed: base.Seed = 0,
    ) -> None:
        self.name = task
        self._obs, self._size, self._repeat = obs, size, action_repeat
        self._flags = QUALITIES[Render(**(render or {})).quality]
        self._domain, _ = pair = find_task(task)
        with _without_deprecations():
            self._env = load_suite().load(*pair, task_kwargs={"random": np.random.RandomState(seed)})
        self._physics = self._env.physics
        self.metadata = {**DMC.metadata, "render_fps": 1 / (self._env.control_timestep() * action_repeat)}
        self._camera_id = self._find_camera(camera)
        self._camera = None
        self._step_limit = min(self._env._step_limit, STEP_LIMIT if np.isinf(self._env._step_limit) else np.inf)
        self.episode_decisions = -(-int(self._step_limit) // action_repeat)
        self._low, self._high = self._action_range()
        model = self._physics.model.ptr
        rendering.fit_buffer(model, size)
        self._model = {field: getattr(model, field) for field in MODEL_FIELDS}
        parts = self._env.observation_spec().items()
        self.state_parts = {key: int(np.prod(spec.shape)) for key, spec in parts}
        dim = sum(self.state_parts.values())
        self._state = np.zeros(dim, np.float32)
        self._over = True
        self.observation_space = base.observation_space(obs, size, dim)
        self.action_space = spaces.Box(-1, 1, self._low.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Start an episode. ``seed`` restarts the task's generator first."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        self._read_state(self._env.reset().observation)
        self._over = False
        observation = self._observation()
        base.require_finite(self.name, observation, 0.0)
        return observation, {"frames": 0}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Apply ``action`` for ``action_repeat`` control steps, fewer if the episode ends. Rewards are summed."""
        if self._over:
            raise UserError(f"{self.name}: the episode is over, or none was begun; call reset() first.")
        control = base.rescale(base.require_finite_action(self.name, action), self._low, self._high)
        reward, frames, terminated = 0.0, 0, False
        while frames < self._repeat and not self._over:
            timestep = self._advance(control)
            reward += float(timestep.reward)
            frames += 1
            terminated = timestep.last() and timestep.discount == 0
            self._over = timestep.last() or self._env._step_count >= self._step_limit
        self._read_state(timestep.observation)
        observation = self._observation()
        base.require_finite(self.name, observation, reward)
        return observation, reward, terminated, self._over and not terminated, {"frames": frames}

    def render(self) -> np.ndarray:
        """Return the present frame, uint8 [S, S, 3]."""
        try:
            if self._camera is None:
                from dm_control.mujoco.engine import Camera

                # One camera for good: Physics.render builds and frees a scene for every frame.
                self._camera = Camera(self._physics, self._size, self._size, self._camera_id)
            return self._camera.render(render_flag_overrides=self._flags)
        except Exception as error:
            raise UserError(rendering.advice(error)) from error

    def renderer(self) -> str:
        """OpenGL's name of the device that draws. Call :meth:`render` first."""
        from OpenGL import GL

        with self._physics.contexts.gl.make_current() as context:
            return context.call(GL.glGetString, GL.GL_RENDERER).decode()

    def snapshot(self) -> dict[str, Any]:
        """Return all that the future depends on, bit for bit, as arrays and plain numbers."""
        import mujoco

        model, data = self._physics.model.ptr, self._physics.data.ptr
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, state, kind)
        return {
            "physics": state,
            "model": {field: array.copy() for field, array in self._model.items() if array.size},
            "random": base.pack_random(self._env.task.random),
            "observed": self._state.copy(),
            "step": int(self._env._step_count),
            "over": bool(self._over),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot, of this or of another instance of the same task, and return its observation."""
        import mujoco

        physics, step = self._physics, int(snapshot["step"])
        moved = self._restore_model(snapshot["model"])
        model, data = physics.model.ptr, physics.data.ptr
        mujoco.mj_setState(
            model, data, np.asarray(snapshot["physics"], np.float64), mujoco.mjtState.mjSTATE_INTEGRATION
        )
        # dm_control steps in halves: position and velocity terms must be those that its own step would have left.
        mujoco.mj_step1(model, data)
        base.unpack_random(self._env.task.random, snapshot["random"])
        self._env._step_count, self._env._reset_next_step = step, False
        self._state = np.array(snapshot["observed"], np.float32)
        self._over = bool(snapshot["over"])
        if moved and physics.contexts:
            self._upload_terrain()
        return self._observation()

    @override
    def close(self) -> None:
        self._camera = None
        self._env.close()

    def _advance(self, control: np.ndarray) -> Any:
        from dm_control.rl.control import PhysicsError

        try:
            return self._env.step(control)
        except PhysicsError as error:
            raise UserError(
                f"{self.name}: the simulation diverged at step {self._env._step_count}: {sentence(error)}"
            ) from error

    def _read_state(self, observation: Mapping[str, np.ndarray]) -> None:
        self._state = np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)

    def _observation(self) -> dict[str, np.ndarray]:
        observation = {}
        if self._obs != "state":
            observation["pixels"] = np.ascontiguousarray(self.render().transpose(2, 0, 1))
        if self._obs != "pixels":
            observation["state"] = self._state
        return observation

    def _action_range(self) -> tuple[np.ndarray, np.ndarray]:
        import mujoco

        spec = self._env.action_spec()
        free = spec.maximum >= mujoco.mjMAXVAL
        return np.where(free, -1.0, spec.minimum), np.where(free, 1.0, spec.maximum)

    def _find_camera(self, camera: int | str | None) -> int:
        if camera is None:
            camera = CAMERAS.get(self._domain, 0)
        model = self._physics.model.ptr
        names = [model.camera(i).name for i in range(model.ncam)]
        if isinstance(camera, str) and camera in names:
            return names.index(camera)
        if isinstance(camera, int) and 0 <= camera < len(names):
            return camera
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
        hint = near_match(camera, names) if isinstance(camera, str) else ""
        reason = f"is no camera of {self.name}, which has {known}"
        raise OptionError("camera", camera, reason, allowed=tuple(names), hint=hint)

    def _restore_model(self, saved: Mapping[str, Any]) -> bool:
        """Write the model's fields back. Return whether the terrain changed, which a renderer keeps its own copy of."""
        moved = False
        for field, value in saved.items():
            value = np.asarray(value)
            if field == "hfield_data":
                moved = not np.array_equal(self._model[field], value)
            self._model[field][:] = value
        return moved

    def _upload_terrain(self) -> None:
        import mujoco

        physics = self._physics
        with physics.contexts.gl.make_current() as context:
            context.call(mujoco.mjr_uploadHField, physics.model.ptr, physics.contexts.mujoco.ptr, 0)


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide MuJoCo's remark that the suite's own models use a deprecated attribute, which no user can act on."""

    def keep(record: logging.LogRecord) -> bool:
        return "is deprecated" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
