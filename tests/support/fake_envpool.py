"""A stand-in for EnvPool, of the same interface: it steps dm_control's environments, one after another.

As EnvPool does, it resets by itself in the step after an end, whose reward then means nothing; tells more parts of a
state than dm_control, in another order; takes numbers of seeds that are int32; and seeds number i with the i-th.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
from gymnasium import spaces

TASKS = {"CartpoleSwingup-v1": ("cartpole", "swingup"), "FishSwim-v1": ("fish", "swim")}


class Pool:
    def __init__(self, name: str, num_envs: int, seed: int) -> None:
        from dm_control import suite

        assert 0 <= seed <= 2**31 - num_envs
        kwargs = [{"random": np.random.RandomState(seed + index)} for index in range(num_envs)]
        self.envs = [suite.load(*TASKS[name], task_kwargs=own) for own in kwargs]
        action = self.envs[0].action_spec()
        self.action_space = spaces.Box(action.minimum, action.maximum, dtype=np.float64)
        self.elapsed, self.over = np.zeros(num_envs, np.int32), np.zeros(num_envs, bool)

    def reset(self):
        self.elapsed[:], self.over[:] = 0, False
        return self.told([env.reset() for env in self.envs]), {"elapsed_step": self.elapsed.copy()}

    def step(self, action: np.ndarray):
        assert action.dtype == self.action_space.dtype
        found = [
            env.reset() if over else env.step(own) for env, own, over in zip(self.envs, action, self.over, strict=True)
        ]
        self.elapsed = np.where(self.over, 0, self.elapsed + 1).astype(np.int32)
        reward = np.array([17.0 if step.first() else step.reward for step in found], np.float32)
        self.over = np.array([step.last() for step in found])
        return self.told(found), reward, self.over & False, self.over, {"elapsed_step": self.elapsed.copy()}

    def told(self, steps) -> dict[str, np.ndarray]:
        keys = sorted(steps[0].observation, reverse=True)
        parts = {key: np.stack([np.float64(step.observation[key]) for step in steps]) for key in keys}
        return {"extra": np.full((len(steps), 2), np.nan), **parts}

    def close(self) -> None:
        self.envs = []


def module() -> ModuleType:
    """``envpool`` as it is imported."""
    envpool = ModuleType("envpool")
    envpool.__spec__ = ModuleSpec("envpool", None)  # which others look up, to see whether it is installed
    envpool.list_all_envs = lambda: list(TASKS)

    envpool.make_gymnasium = Pool
    return envpool
