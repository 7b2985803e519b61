"""Memory budget of planning: how much is free, and whether a decision fits into it, before the first frame."""

from __future__ import annotations

import psutil
import torch

from planners.base import Planner
from worldmodels.common.files import GIB
from worldmodels.errors import UserError
from worldmodels.model import WorldModel


def planning_bytes(model: WorldModel, planner: Planner, num_envs: int) -> int:
    """Return the least bytes that a decision for so many environments holds: features and memories of all rows.

    On a CPU, of as many environments as it plans for at a time.
    """
    rows, steps = planner.imagination_size
    if model.device.type == "cpu":
        num_envs = min(num_envs, max(1, ROWS_AT_ONCE // max(1, rows)))
    state = model.initial(1)
    sizes = [
        sum(value.numel() * value.element_size() for value in model.dynamics.fork(state, n).memory.values())
        for n in (1, 2)
    ]
    features = (steps + 1) * state.feat.shape[1] * state.feat.element_size()
    return num_envs * (sizes[0] + max(rows - 1, 0) * (sizes[1] - sizes[0]) + rows * features)


def free_bytes(device: torch.device) -> int:
    """Return the memory that can still be had where the model lives."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def require_memory(model: WorldModel, planner: Planner, num_envs: int, device: torch.device) -> None:
    """Refuse more environments, or more candidates, than there is memory for."""
    needed, free = planning_bytes(model, planner, num_envs), free_bytes(device)
    if needed > free:
        raise UserError(
            f"planning for {num_envs} environments, {planner.imagination_size.rows} imagined rows each, takes at least "
            f"{needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free: lower env.num_envs or the planner's candidates."
        )


ROWS_AT_ONCE = 1024
"""Sequences that a CPU imagines at a time: more fall out of its caches, fewer leave its threads idle."""
