"""TD-MPC2's heads: the reward of the action that a step takes, known before where it leads, and real ends."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common.batch import mean_over
from worldmodels.common.options import MoreThan, checked
from worldmodels.common.precision import wide
from worldmodels.heads.arrival import RewardHead
from worldmodels.heads.base import Head, Layers, NumBins, Units
from worldmodels.nets.distributions import SymlogTwoHot
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle


class TransitionRewardHead(RewardHead):
    """Reward of an action taken in a state, which a planner knows before it imagines where that leads (TD-MPC2).

    Its bins are even under symlog, where the expectation is taken too.
    """

    bins = SymlogTwoHot

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


class TerminationHead(Head):
    """Whether an episode ends for good in the state that a step arrives in: above one half it does (TD-MPC2).

    Learned from states that were foreseen, as far ahead as any. Without ``episodic`` nothing is learned: no state ends
    an episode, and one that does is refused.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: Units,
        layers: Layers = 2,
        episodic: Annotated[bool, "whether episodes end otherwise than by a time limit"] = False,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.ends = episodic
        self.net = MLP(feat_dim, units, layers, 1, style=style) if episodic else None

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Return 1 where H steps from H + 1 states go on, else 0."""
        return (self.learned(feat[..., 1:, :]) >= 0.5).to(feat.dtype)

    def learned(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "..."]:
        """Return the probability that an episode goes on in states, 1 where nothing is learned."""
        return torch.ones_like(feat[..., 0]) if self.net is None else (-wide(self.net(feat)).squeeze(-1)).sigmoid()

    def loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T"]:
        """Return the binary cross-entropy with ``is_terminal`` where a step led into a row, 0 where none did."""
        if self.net is None:
            return torch.zeros_like(rollout.weight)
        logits = wide(self.net(rollout.feat)).squeeze(-1)
        loss = F.binary_cross_entropy_with_logits(logits, batch["is_terminal"].to(logits.dtype), reduction="none")
        led = torch.cat([torch.zeros_like(batch["reset"][:, :1]), ~batch["reset"][:, 1:]], dim=1)
        return mean_over(torch.where(led, loss, 0.0), led)
