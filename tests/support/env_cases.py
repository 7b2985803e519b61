"""What environments must do, worked out without the code that is tested."""

from __future__ import annotations

import numpy as np
import torch

from worldmodels.envs import make


def single(config: dict, seed: int, index: int, actions: torch.Tensor) -> list[dict]:
    """The reference: one environment in this process, its resets done by hand."""
    env = make(config, seed, index)
    observation, _ = env.reset()
    blank = np.zeros(actions.shape[1], np.float32)
    rows = [(observation, blank, 0.0, True, False, False, 0)]
    for action in actions.numpy():
        if rows[-1][4]:
            rows.append((env.reset()[0], blank, 0.0, True, False, False, 0))
        else:
            observation, reward, terminated, truncated, info = env.step(action)
            rows.append((observation, action, reward, False, terminated or truncated, terminated, info["frames"]))
    keys = ("action", "reward", "is_first", "is_last", "is_terminal", "frames")
    return [{**row[0], **dict(zip(keys, row[1:], strict=True))} for row in rows]
