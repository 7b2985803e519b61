"""What an imagined trajectory is worth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodels.trajectory import Trajectory

Value = Callable[[Tensor], Tensor]
"""Maps feat [N, F] to the expected discounted return [N] from there on."""


def discounted_return(trajectory: Trajectory, gamma: float, terminal_value: Value | None = None) -> Float[Tensor, " N"]:
    """Sum the rewards of each row as far as it is expected to go on, then the value of where it ends, if given.

    ``sum_t gamma^t c_0..c_{t-1} r_t + gamma^H c_0..c_{H-1} V(feat_H)``: arriving in a terminal state is still
    rewarded, nothing after it is. float32 whatever the model computes in.
    """
    cont = trajectory.cont.float()
    alive = torch.cat([torch.ones_like(cont[:, :1]), cont.cumprod(dim=1)], dim=1)
    weight = alive * gamma ** torch.arange(alive.shape[1], device=cont.device)
    total = (weight[:, :-1] * trajectory.reward.float()).sum(dim=1)
    if terminal_value is not None:
        total = total + weight[:, -1] * terminal_value(trajectory.feat[:, -1]).float()
    return total
