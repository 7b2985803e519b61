"""Plain containers, which workers can be sent and checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain_config(env: Mapping[str, Any]) -> dict[str, Any]:
    """A config group as plain containers, which is what a worker can be sent."""
    from omegaconf import DictConfig, OmegaConf

    return OmegaConf.to_container(env, resolve=True) if isinstance(env, DictConfig) else dict(env)


def plain_state(value: Any) -> Any:
    """``value`` with arrays as tensors and NumPy numbers as Python's, so that ``weights_only`` loading accepts it."""
    if isinstance(value, Mapping):
        return {key: plain_state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_state(item) for item in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def array_state(value: Any) -> Any:
    """The inverse of :func:`plain_state`: workers know no torch."""
    if isinstance(value, Mapping):
        return {key: array_state(item) for key, item in value.items()}
    if isinstance(value, list):
        return [array_state(item) for item in value]
    return value.numpy() if isinstance(value, Tensor) else value
