"""Any Gymnasium id behind this project's spaces: a file for what it observes, what it takes, and how it is made."""

from worldmodels.envs.gym.env import GymEnv

__all__ = ["GymEnv"]
