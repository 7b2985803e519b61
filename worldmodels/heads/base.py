"""Scalars read off features: reward and continuation. A head alone knows which state and action it reads."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodels.common.batch import goal_changed
from worldmodels.common.options import AtLeast, Count, MoreThan, checked
from worldmodels.nets.distributions import TwoHot
from worldmodels.nets.layers import MLP

Units = Annotated[Count, "units of a hidden layer"]
Layers = Annotated[int, AtLeast(0), "hidden layers"]


class RewardHead(nn.Module):
    """Reward for arriving in a state, as symexp two-hot; predicts exactly zero before training (DreamerV3)."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: Units,
        layers: Layers = 1,
        num_bins: Annotated[int, AtLeast(2), "bins of the two-hot distribution"] = 255,
        symlog_limit: Annotated[float, MoreThan(0), "of the bins, under symlog"] = 20.0,
    ) -> None:
        super().__init__()
        self.two_hot = TwoHot(num_bins, symlog_limit)
        self.net = MLP(feat_dim, units, layers, num_bins, out_scale=0.0)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Decoded reward of H steps from H + 1 states; the start's own reward is the past's."""
        return self.two_hot.decode(self.net(feat[..., 1:, :]))

    def loss(
        self,
        feat: Float[Tensor, "B T F"],
        weight: Float[Tensor, "B T"],
        batch: dict[str, Tensor],
        reset: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Cross-entropy on every step: an arrival state always has a reward, zero at an episode's first frame.

        Where another goal is shown than before, the reward was for that one, which the state no longer tells.
        """
        told = ~goal_changed(batch) | reset
        return weight * told * self.two_hot.loss(self.net(feat), batch["reward"])


class TransitionRewardHead(RewardHead):
    """Reward of an action taken in a state, which a planner knows before it imagines where that leads (TD-MPC2)."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: Units,
        layers: Layers = 1,
        num_bins: Annotated[int, AtLeast(2), "bins of the two-hot distribution"] = 255,
        symlog_limit: Annotated[float, MoreThan(0), "of the bins, under symlog"] = 20.0,
    ) -> None:
        super().__init__(feat_dim + action_dim, action_dim, units, layers, num_bins, symlog_limit)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Decoded reward of H steps from the H states they are taken in."""
        return self.two_hot.decode(self.net(torch.cat([feat[..., :-1, :], action], dim=-1)))

    def loss(
        self,
        feat: Float[Tensor, "B T F"],
        weight: Float[Tensor, "B T"],
        batch: dict[str, Tensor],
        reset: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Cross-entropy where a step led into a row; none did at a reset, which counts nothing."""
        before = torch.cat([feat[:, :-1], batch["action"][:, 1:]], dim=-1)
        loss = weight[:, :-1] * self.two_hot.loss(self.net(before), batch["reward"][:, 1:])
        valid = ~reset[:, 1:]
        loss = torch.where(valid, loss, 0.0) * reset.numel() / valid.sum().clamp(min=1)
        return torch.cat([torch.zeros_like(loss[:, :1]), loss], dim=1)


class ContinueHead(nn.Module):
    """Probability that an episode goes on after arriving in a state; a time limit does not count as an end."""

    @checked
    def __init__(self, feat_dim: int, action_dim: int, units: Units, layers: Layers = 1) -> None:
        super().__init__()
        self.net = MLP(feat_dim, units, layers, 1, out_scale=0.0)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Probability in [0, 1] for H steps from H + 1 states."""
        return self.net(feat[..., 1:, :]).float().squeeze(-1).sigmoid()

    def loss(
        self,
        feat: Float[Tensor, "B T F"],
        weight: Float[Tensor, "B T"],
        batch: dict[str, Tensor],
        reset: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Binary cross-entropy with 1 - is_terminal; in full however far ahead, as an end is its window's last row."""
        logits = self.net(feat).float().squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits, (~batch["is_terminal"]).float(), reduction="none")
