"""Tiny world models and made-up batches, shared by the tests of the model side."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import torch
from dynamics_cases import TINY
from omegaconf import DictConfig
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common.columns import cameras
from worldmodels.config import load_config
from worldmodels.factory import build_model
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.testing.sequences import randomize

BOTH: ObservationSpec = {"pixels": ((3, 16, 16), torch.uint8), "state": ((4,), torch.float32)}
TWO_CAMERAS: ObservationSpec = {**BOTH, "pixels_wrist": ((3, 32, 32), torch.uint8)}
STATE: ObservationSpec = {"state": BOTH["state"]}
PIXELS: ObservationSpec = {"pixels": BOTH["pixels"]}
ACTION = 2


@cache
def _config(overrides: tuple[str, ...]) -> DictConfig:
    return load_config([*TINY, *overrides])


def config(*overrides: str) -> DictConfig:
    return deepcopy(_config(overrides))


def model(*overrides: str, observations: ObservationSpec = BOTH, noise: float = 0.2) -> WorldModel:
    """A tiny world model without zeros in it, whose latents take their mode."""
    built = randomize(build_model(config(*overrides), observations, ACTION), scale=noise)
    built.dynamics.sample = False
    return built


def batch(size: int = 2, length: int = 5, seed: int = 0, observations: ObservationSpec = BOTH) -> dict[str, Tensor]:
    """What replay samples: one episode's first frame in row 0 and a real end before it, none at a window's start."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.zeros(size, length, dtype=torch.bool)
    terminal = first.clone()
    if length > 3:
        terminal[0, 2], first[0, 3] = True, True
    rows = {
        "action": torch.rand(size, length, ACTION, generator=generator) * 2 - 1,
        "reward": torch.randn(size, length, generator=generator),
        "is_first": first,
        "is_last": terminal,
        "is_terminal": terminal,
    }
    rows["action"][first] = 0
    rows["reward"][first] = 0
    for camera in cameras(observations):
        shape = (size, length, *observations[camera][0])
        rows[camera] = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    if "state" in observations:
        rows["state"] = torch.randn(size, length, *observations["state"][0], generator=generator) * 3
    return rows


def with_reset(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the losses read it: the first step of a window counts as a reset."""
    reset = rows["is_first"].clone()
    reset[:, 0] = True
    return {**rows, "reset": reset}


def rollout_of(feat: Tensor, weight: Tensor | None = None) -> Rollout:
    """What a backbone would have made of a batch, as far as heads read it."""
    return Rollout(feat, feat, torch.ones(feat.shape[:2]) if weight is None else weight, {}, {})


WITH_GOAL = {
    "pixels": ((3, 16, 16), torch.uint8),
    "goal_pixels": ((3, 16, 16), torch.uint8),
    "state": ((4,), torch.float32),
    "goal_state": ((4,), torch.float32),
}
"""Observations with a goal's beside them."""
