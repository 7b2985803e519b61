"""Heads of the state that a step arrives in: its reward, as symexp two-hot, and whether the episode goes on."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common.batch import goal_changed
from worldmodels.common.options import AtLeast, Between, MoreThan, checked
from worldmodels.common.precision import wide
from worldmodels.heads.base import Head, Layers, NumBins, Units
from worldmodels.nets.distributions import TwoHot
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle


class RewardHead(Head):
    """Reward for arriving in a state, as symexp two-hot. Predicts exactly zero before training (DreamerV3)."""

    bins: ClassVar[type[TwoHot]] = TwoHot

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
        super().__init__()
        self.two_hot = self.bins(num_bins, symlog_limit)
        self.largest = math.expm1(symlog_limit)
        self.net = MLP(feat_dim, units, layers, num_bins, out_scale=0.0, style=style)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Decode the reward of H steps from H + 1 states. The start's own reward is the past's."""
        return self.two_hot.decode(self.net(feat[..., 1:, :]))

    def loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T"]:
        """Return the cross-entropy on every step: an arrival has a reward, zero at an episode's first frame.

        Where another goal is shown than before, the reward was for that one, which the state no longer tells.
        """
        same_goal = ~goal_changed(batch) | batch["reset"]
        return rollout.weight * same_goal * self.two_hot.loss(self.net(rollout.feat), batch["reward"])


class ContinueHead(Head):
    """Probability that an episode goes on after arriving in a state. A time limit does not count as an end.

    With a ``discount`` the head learns the probability times it, as DreamerV3's code does (``contdisc``), and readings
    are divided by it: they may exceed 1 by a little.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: Units,
        layers: Layers = 1,
        discount: Annotated[float, Between(0, 1, "low"), "factor of what is learned; DreamerV3: 1 - 1/333"] = 1.0,
        out_scale: Annotated[float, AtLeast(0), "of the last layer's first weights; DreamerV3: 1"] = 0.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.discount = discount
        self.net = MLP(feat_dim, units, layers, 1, out_scale=out_scale, style=style)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Return probabilities for H steps from H + 1 states."""
        return self.learned(feat[..., 1:, :]) / self.discount

    def learned(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "..."]:
        """Return in [0, 1] what the head has learned of states, the discount included."""
        return wide(self.net(feat)).squeeze(-1).sigmoid()

    def loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T"]:
        """Return the binary cross-entropy with 1 - is_terminal, times the discount.

        It counts in full however far ahead: an end is its window's last row.
        """
        logits = wide(self.net(rollout.feat)).squeeze(-1)
        target = self.discount * (~batch["is_terminal"]).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
