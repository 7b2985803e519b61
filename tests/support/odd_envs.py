"""Gymnasium environments that are legal and odd, registered as ``odd_envs:<Name>-v0``."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces


class Odd(gymnasium.Env):
    """Observes, takes and tells whatever it is given: fixed answers to fixed questions."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium declares it as an instance attribute

    def __init__(
        self,
        observation_space=None,
        action_space=None,
        raw=None,
        reward=0.0,
        info=None,
        length=20,
        frameskip=1,
        render_mode=None,
    ):
        unbounded, unit = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = unbounded if observation_space is None else observation_space
        self.action_space = unit if action_space is None else action_space
        self.raw = np.zeros(2, np.float32) if raw is None else raw
        self.reward, self.info, self.length, self.render_mode = reward, info or {}, length, render_mode
        self.given, self.seeds, self.steps = [], [], 0

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.steps = 0
        return self.raw, {}

    def step(self, action):
        self.given.append(action)
        self.steps += 1
        return self.raw, self.reward, False, bool(self.length) and self.steps >= self.length, self.info

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


class Endless(Odd):
    """Never ends."""

    def __init__(self, render_mode=None):
        super().__init__(length=0)


class Success(Odd):
    """Says so from its third step on, in numpy's words."""

    def step(self, action):
        *outcome, _ = super().step(action)
        return *outcome, {"is_success": np.array([self.steps >= 3])}


class Bracketed(Odd):
    """Puts its reward into brackets."""

    def __init__(self, render_mode=None):
        super().__init__(reward=np.array([[2.0]]))


class Parent(Odd):
    """Starts a process that would run for ever, and tells its number."""

    def reset(self, *, seed=None, options=None):
        import multiprocessing
        import time

        self.child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        self.child.start()
        super().reset(seed=seed)
        return np.array([self.child.pid, 0], np.float32), {}


class Mute(Odd):
    """Cannot be made, and does not say why."""

    def __init__(self, render_mode=None):
        assert render_mode == "never"


for _kind in (Odd, Endless, Success, Bracketed, Parent, Mute):
    gymnasium.register(f"{_kind.__name__}-v0", entry_point=_kind)
gymnasium.register("Limited-v0", entry_point=Odd, max_episode_steps=5)
gymnasium.register("Skipping-v0", entry_point=Odd, kwargs={"frameskip": 4})
gymnasium.register("Drawing-v0", entry_point=Odd, kwargs={"frameskip": (2, 5)})
