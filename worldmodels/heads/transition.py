"""The reward of the action that a step takes, known before where it leads."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common.batch import mean_over
from worldmodels.common.options import MoreThan, checked
from worldmodels.heads.arrival import RewardHead
from worldmodels.heads.base import Layers, NumBins, Units
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle


class TransitionRewardHead(RewardHead):
    """Reward of an action taken in a state, which a planner knows before it imagines where that leads (TD-MPC2)."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: Units,
        layers: Layers = 1,
        num_bins: NumBins = 255,
        symlog_limit: Annotated[float, MoreThan(0), "of the bins, under symlog"] = 20.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__(feat_dim + action_dim, action_dim, units, layers, num_bins, symlog_limit, style)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Decode the reward of H steps from the H states they are taken in."""
        return self.two_hot.decode(self.net(torch.cat([feat[..., :-1, :], action], dim=-1)))

    def loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T"]:
        """Return the cross-entropy where a step led into a row. None did at a reset, which counts nothing."""
        before = torch.cat([rollout.feat[:, :-1], batch["action"][:, 1:]], dim=-1)
        loss = rollout.weight[:, :-1] * self.two_hot.loss(self.net(before), batch["reward"][:, 1:])
        valid = ~batch["reset"][:, 1:]
        loss = torch.where(valid, loss, 0.0)
        return mean_over(torch.cat([torch.zeros_like(loss[:, :1]), loss], dim=1), valid)
