"""gymnasium-robotics' PointMaze: a ball to be rolled to a place that only the goal's own observation shows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.common.options import AtLeast, checked
from worldmodels.envs import base, rendering
from worldmodels.envs.grid import Grid
from worldmodels.errors import OptionError, UserError, near_match

MazeName = Literal["umaze", "medium", "large"]
MAZES = {
    "umaze": ("PointMaze_UMaze-v3", 300),
    "medium": ("PointMaze_Medium-v3", 600),
    "large": ("PointMaze_Large-v3", 800),
}
"""Gymnasium's id, and control steps of an episode as in D4RL."""
REACHED = 0.45
"""Distance from the goal that counts as there, gymnasium-robotics' own; cells have side 1."""
JITTER = 0.25
"""Starts and goals lie up to so far from the middle of their cells, along each axis."""
ARRIVED = 0.2
"""Distance from a leg's end at which the next leg begins."""
CONTROL_SECONDS = 0.01
"""A control step."""


class Maze(gymnasium.Env):
    """A force-driven ball in a maze seen from above. The goal is an observation of the ball lying there.

    Observations, each with its ``goal_`` twin: ``state`` is position and velocity (x, y, vx, vy), the goal's at rest.
    ``pixels`` is a camera above the maze in which no marker gives the goal away. Reward is 1 for each decision that
    ends within 0.45 of the goal. Episodes go on there, to D4RL's number of steps. ``info["success"]``: there now.

    With ``max_leg_cells=n`` it is an environment to record in instead: goals lie at most n cells away, and whenever one
    is reached (to within 0.2) the next is drawn. A control step is 10 ms.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium declares it as an instance attribute
    render_mode = "rgb_array"

    @checked
    def __init__(
        self,
        maze: Annotated[MazeName, "which of D4RL's"] = "umaze",
        obs: base.Obs = "pixels",
        size: base.Size = 32,
        action_repeat: base.Repeat = 8,
        min_start_goal_cells: Annotated[int, AtLeast(0), "fewest cells between start and goal, on foot"] = 4,
        max_leg_cells: Annotated[int, AtLeast(0), "most cells between successive goals; 0: one an episode"] = 0,
        steps: Annotated[int | None, AtLeast(1), "control steps of an episode; null: D4RL's 300, 600 or 800"] = None,
        seed: base.Seed = 0,
    ) -> None:
        self.grid = grid_of(maze)
        self.name = f"maze {maze}"
        self._obs, self._size, self._repeat = obs, size, action_repeat
        id, longest = MAZES[maze]
        self._limit = longest if steps is None else steps
        self._maze = _make(id)
        self.metadata = {**self.metadata, "render_fps": 1 / (CONTROL_SECONDS * action_repeat)}
        self._point = self._maze.point_env
        self._legs, every = max_leg_cells, len(self.grid.cells)
        self._pairs = self.grid.pairs(1, self._legs) if self._legs else self.grid.pairs(min_start_goal_cells, every)
        if not self._pairs:
            reason = f"is more than lie between any two cells of maze={maze}"
            raise OptionError("min_start_goal_cells", min_start_goal_cells, reason)
        self._random = np.random.RandomState(seed)
        self._renderer: Any = None
        self._goal, self._goal_pixels, self._step, self._over = np.zeros(2), None, 0, True
        present = base.observation_space(obs, size, 4)
        goals = {GOAL_PREFIX + key: space for key, space in present.items()}
        self.observation_space = spaces.Dict({**present.spaces, **goals})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Draw a start and a goal."""
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed)
        start, goal = self._pairs[self._random.randint(len(self._pairs))]
        self._maze.reset(options={"goal_cell": np.array(goal), "reset_cell": np.array(start)})
        self._point.set_state(self._near(start), np.zeros(2))
        self._aim(self._near(goal))
        self._step, self._over = 0, False
        return self._observation(), {"frames": 0, "success": self._there()}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Push for ``action_repeat`` control steps, fewer if the episode ends."""
        if self._over:
            raise UserError(f"{self.name}: the episode is over, or none was begun; call reset() first.")
        force, frames = base.require_finite_action(self.name, action), 0
        while frames < self._repeat and self._step < self._limit:
            self._point.step(force.astype(np.float64))
            frames, self._step = frames + 1, self._step + 1
        self._over = self._step >= self._limit
        there = self._there()
        if self._legs and np.linalg.norm(self._place() - self._goal) < ARRIVED:
            self._next_leg()
        return self._observation(), float(there), False, self._over, {"frames": frames, "success": there}

    def render(self) -> np.ndarray:
        """Return the present frame, uint8 [S, S, 3]."""
        import mujoco

        model, data = self._point.model, self._point.data
        try:
            if self._renderer is None:
                rendering.fit_buffer(model, self._size)
                self._renderer = mujoco.Renderer(model, self._size, self._size)
            self._renderer.update_scene(data, self._camera())
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            return self._renderer.render()
        except Exception as error:
            raise UserError(rendering.advice(error)) from error

    def snapshot(self) -> dict[str, Any]:
        """Return ball, goal, step and generator."""
        return {
            "physics": self._physics(),
            "goal": self._goal.copy(),
            "step": self._step,
            "over": self._over,
            "random": base.pack_random(self._random),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        self._set_physics(np.asarray(snapshot["physics"], np.float64))
        self._aim(np.asarray(snapshot["goal"], np.float64))
        self._step, self._over = int(snapshot["step"]), bool(snapshot["over"])
        base.unpack_random(self._random, snapshot["random"])
        return self._observation()

    @override
    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._maze.close()

    def _near(self, cell: tuple[int, int]) -> np.ndarray:
        """Return a point in a cell."""
        return self.grid.center(cell) + self._random.uniform(-JITTER, JITTER, 2)

    def _next_leg(self) -> None:
        here = self.grid.cell_at(self._place())
        ends = [goal for start, goal in self._pairs if start == here]
        self._aim(self._near(ends[self._random.randint(len(ends))]))

    def _aim(self, goal: np.ndarray) -> None:
        self._goal = np.array(goal, np.float64)
        self._goal_pixels = None

    def _place(self) -> np.ndarray:
        return self._point.data.qpos[:2]

    def _there(self) -> bool:
        return bool(np.linalg.norm(self._place() - self._goal) <= REACHED)

    def _observation(self) -> dict[str, np.ndarray]:
        observation: dict[str, np.ndarray] = {}
        if self._obs != "state":
            observation["pixels"] = self._drawn()
            observation[GOAL_PREFIX + "pixels"] = self._drawn_at_goal().copy()
        if self._obs != "pixels":
            data = self._point.data
            observation["state"] = np.concatenate([data.qpos, data.qvel]).astype(np.float32)
            observation[GOAL_PREFIX + "state"] = np.concatenate([self._goal, np.zeros(2)]).astype(np.float32)
        return observation

    def _drawn(self) -> np.ndarray:
        return np.ascontiguousarray(self.render().transpose(2, 0, 1))

    def _drawn_at_goal(self) -> np.ndarray:
        """Return the frame of the ball lying at the goal, drawn once for each goal."""
        if self._goal_pixels is None:
            physics = self._physics()
            self._point.set_state(self._goal, np.zeros(2))
            self._goal_pixels = self._drawn()
            self._set_physics(physics)
        return self._goal_pixels

    def _physics(self) -> np.ndarray:
        """All that the simulation's future depends on."""
        import mujoco

        model, kind = self._point.model, mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, self._point.data, state, kind)
        return state

    def _set_physics(self, state: np.ndarray) -> None:
        import mujoco

        mujoco.mj_setState(self._point.model, self._point.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        warm = self._point.data.qacc_warmstart.copy()
        mujoco.mj_forward(self._point.model, self._point.data)  # places of bodies, which a camera sees
        self._point.data.qacc_warmstart[:] = warm

    def _camera(self) -> Any:
        import mujoco

        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = 0.0
        camera.azimuth, camera.elevation = 90.0, -90.0
        field = np.deg2rad(self._point.model.vis.global_.fovy)
        camera.distance = 0.5 * max(self.grid.free.shape) / np.tan(field / 2)
        return camera


def grid_of(maze: str) -> Grid:
    """Return the cells of a maze. Raise ``UserError`` for one that does not exist."""
    maps = _robotics().envs.maze.maps
    known = {"umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE}
    if maze not in known:
        hint = near_match(maze, known)
        raise OptionError("maze", maze, f"must be one of {', '.join(known)}", allowed=tuple(known), hint=hint)
    return Grid(known[maze])


def _make(id: str) -> gymnasium.Env:
    """The environment within, its goal marker made invisible."""
    rendering.choose_backend()
    gymnasium.register_envs(_robotics())
    maze = gymnasium.make(id, continuing_task=True, reset_target=False).unwrapped
    maze.point_env.model.site_rgba[maze.target_site_id] = 0.0
    Path(maze.tmp_xml_file_path).unlink(missing_ok=True)  # read by now, and nobody else would
    return maze


def _robotics() -> Any:
    """The package, without what it prints about environments that nobody here asked for."""
    with redirect_stderr(io.StringIO()):
        import gymnasium_robotics
        import gymnasium_robotics.envs.maze.maps

    return gymnasium_robotics
