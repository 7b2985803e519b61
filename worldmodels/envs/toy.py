"""Environments whose every number is known in advance, to hold data handling, values and planners to account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.common.options import AtLeast, checked
from worldmodels.envs import base
from worldmodels.errors import OptionError

End = Literal["truncate", "terminate", "both"]


class Counter(gymnasium.Env):
    """Its observation says which episode and step it is, and which action and reward led there.

    ``state`` is [index, episode, step, last reward, last action...], exactly. ``pixels`` holds episode, step and the
    first action (as ``round(127 * (a + 1))``) in its three channels. Episode ``k`` of environment ``i`` lasts
    ``lengths[(i + k) % len(lengths)]`` steps and ends the way ``ends[(i + k) % len(ends)]`` says: truncate, terminate
    or both at once. The reward for arriving in step ``s`` of episode ``k`` is ``100 k + s + a[0] / 2``.
    """

    @checked
    def __init__(
        self,
        lengths: Annotated[Sequence[Annotated[int, AtLeast(1)]], "steps of episodes, in turn"] = (5, 3, 7),
        ends: Annotated[Sequence[End], "how episodes end, in turn"] = ("truncate",),
        action_dim: Annotated[int, AtLeast(1), "numbers of an action"] = 2,
        obs: base.Obs = "state",
        size: base.Size = 16,
        seed: base.Seed = 0,
        index: Annotated[int, "which of the vector's environments it is"] = 0,
    ) -> None:
        self._lengths, self._ends = list(lengths), list(ends)
        self._index, self._size, self._obs = index, size, obs
        self._episode, self._step = -1, 0
        self._action, self._reward = np.zeros(action_dim, np.float32), 0.0
        self.observation_space = base.observation_space(obs, size, 4 + action_dim)
        self.action_space = spaces.Box(-1, 1, (action_dim,), np.float32)

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        self._episode, self._step, self._reward = self._episode + 1, 0, 0.0
        self._action = np.zeros_like(self._action)
        return self._observation(), {"frames": 0}

    @override
    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        self._step += 1
        self._action = np.asarray(action, np.float32)
        self._reward = 100.0 * self._episode + self._step + float(self._action[0]) / 2
        turn = self._index + self._episode
        over = self._step >= self._lengths[turn % len(self._lengths)]
        end = self._ends[turn % len(self._ends)]
        return self._observation(), self._reward, over and end != "truncate", over and end != "terminate", {"frames": 1}

    def snapshot(self) -> dict[str, Any]:
        """Return the four numbers the environment consists of."""
        return {
            "episode": self._episode,
            "step": self._step,
            "reward": self._reward,
            "action": self._action.copy(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        self._episode, self._step = int(snapshot["episode"]), int(snapshot["step"])
        self._reward, self._action = float(snapshot["reward"]), np.array(snapshot["action"], np.float32)
        return self._observation()

    def _observation(self) -> dict[str, np.ndarray]:
        observation = {}
        if self._obs != "state":
            color = [self._episode % 256, self._step % 256, round(127 * (float(self._action[0]) + 1))]
            image = np.array(color, np.uint8).reshape(3, 1, 1)
            observation["pixels"] = np.tile(image, (1, self._size, self._size))
        if self._obs != "pixels":
            head = [self._index, self._episode, self._step, self._reward]
            observation["state"] = np.concatenate([head, self._action]).astype(np.float32)
        return observation


class Chain(gymnasium.Env):
    """``length`` places in a row, actions left (0) and right (1), reward 1 and a real end at the right-hand place.

    ``state`` is the place, one-hot. Episodes begin at ``start`` and are truncated after ``limit`` steps.
    """

    @checked
    def __init__(
        self,
        length: Annotated[int, AtLeast(2), "places"] = 6,
        start: Annotated[int, AtLeast(0), "place where episodes begin"] = 0,
        limit: base.Limit = 50,
        seed: base.Seed = 0,
    ) -> None:
        if start >= length - 1:
            raise OptionError("start", start, f"must lie below the goal, which is place {length - 1}")
        self.length, self._start, self._limit = length, start, limit
        self._place, self._step = start, 0
        self.observation_space = base.observation_space("state", 16, length)
        self.action_space = spaces.Discrete(2)

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        self._place, self._step = self._start, 0
        return self._observation(), {"frames": 0}

    def step(self, action: int | np.integer) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Move left or right. The left-hand wall holds."""
        self._step += 1
        self._place = min(max(self._place + (1 if int(action) else -1), 0), self.length - 1)
        goal = self._place == self.length - 1
        return self._observation(), float(goal), goal, not goal and self._step >= self._limit, {"frames": 1}

    def optimal_value(self, gamma: float) -> np.ndarray:
        """Return each place's value under always going right, float64 [length].

        It is gamma^(steps - 1), and 0 at the goal.
        """
        steps = self.length - 1 - np.arange(self.length)
        return np.where(steps > 0, gamma ** (steps - 1.0), 0.0)

    def random_value(self, gamma: float) -> np.ndarray:
        """Return each place's value under a fair coin, float64 [length], by solving Bellman's equation."""
        n = self.length
        transition, reward = np.zeros((n, n)), np.zeros(n)
        for place in range(n - 1):
            for move in (max(place - 1, 0), place + 1):
                transition[place, move] += 0.5
                reward[place] += 0.5 * (move == n - 1)
        return np.linalg.solve(np.eye(n) - gamma * transition, reward)

    def snapshot(self) -> dict[str, Any]:
        """Return place and step."""
        return {"place": self._place, "step": self._step}

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        self._place, self._step = int(snapshot["place"]), int(snapshot["step"])
        return self._observation()

    def _observation(self) -> dict[str, np.ndarray]:
        return {"state": np.eye(self.length, dtype=np.float32)[self._place]}


class LinearGaussian(gymnasium.Env):
    """x' = A x + B u + noise with the reward -(x' Q x' + u R u): the best plan is known in closed form.

    A point with friction on a line: ``state`` is (position, velocity). Episodes begin at ``start`` and are truncated
    after ``limit`` steps. ``noise`` is the standard deviation added to each part of the state.
    """

    A = np.array([[1.0, 0.2], [0.0, 0.9]])
    B = np.array([[0.0], [0.2]])
    Q = np.diag([1.0, 0.1])
    R = np.array([[0.5]])

    @checked
    def __init__(
        self,
        start: Annotated[Sequence[float] | np.ndarray, "position and velocity where episodes begin"] = (0.5, 0.0),
        limit: base.Limit = 50,
        noise: Annotated[float, AtLeast(0), "standard deviation added to each part of the state"] = 0.0,
        seed: base.Seed = 0,
    ) -> None:
        self._start = np.array(start, np.float64)
        if self._start.shape != (2,):
            raise OptionError("start", list(start), "must be two numbers: position and velocity")
        self._limit, self._noise = limit, noise
        self._random = np.random.RandomState(seed)
        self._x, self._step = self._start.copy(), 0
        self.observation_space = base.observation_space("state", 16, 2)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed)
        self._x, self._step = self._start.copy(), 0
        return self._observation(), {"frames": 0}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Move by the linear law. The action is clamped to [-1, 1]."""
        self._step += 1
        u = np.clip(np.asarray(action, np.float64), -1, 1)
        self._x = self.A @ self._x + self.B @ u + self._noise * self._random.standard_normal(2)
        reward = -float(self._x @ self.Q @ self._x + u @ self.R @ u)
        return self._observation(), reward, False, self._step >= self._limit, {"frames": 1}

    def optimal_actions(self, x0: Sequence[float] | np.ndarray, steps: int) -> np.ndarray:
        """Return the best ``steps`` actions from ``x0`` without noise or bounds, float64 [steps, 1].

        They follow from Riccati's recursion.
        """
        cost_to_go, gains = np.zeros((2, 2)), []
        for _ in range(steps):
            ahead = self.Q + cost_to_go
            gain = np.linalg.solve(self.R + self.B.T @ ahead @ self.B, self.B.T @ ahead @ self.A)
            cost_to_go = self.A.T @ ahead @ (self.A - self.B @ gain)
            gains.append(gain)
        x, actions = np.array(x0, np.float64), []
        for gain in reversed(gains):
            actions.append(-gain @ x)
            x = self.A @ x + self.B @ actions[-1]
        return np.stack(actions)

    def plan_return(self, x0: Sequence[float] | np.ndarray, actions: np.ndarray) -> float:
        """Return the sum of rewards that ``actions`` [steps, 1] earn from ``x0`` without noise."""
        x, total = np.array(x0, np.float64), 0.0
        for u in np.asarray(actions, np.float64):
            x = self.A @ x + self.B @ u
            total -= float(x @ self.Q @ x + u @ self.R @ u)
        return total

    def snapshot(self) -> dict[str, Any]:
        """Return state, step and generator."""
        return {"x": self._x.copy(), "step": self._step, "random": base.pack_random(self._random)}

    def restore(self, snapshot: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a snapshot and return its observation."""
        self._x, self._step = np.array(snapshot["x"], np.float64), int(snapshot["step"])
        base.unpack_random(self._random, snapshot["random"])
        return self._observation()

    def _observation(self) -> dict[str, np.ndarray]:
        return {"state": self._x.astype(np.float32)}
