"""A critic of features, its slow twin, and the scale of returns: what learned planners share."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodels.common.host import send
from worldmodels.common.options import AtLeast, Between, checked
from worldmodels.common.precision import wide
from worldmodels.heads.base import Layers, NumBins, Units
from worldmodels.nets.distributions import TwoHot
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle

CRITIC_GIVEN = ("feat_dim", "style")
"""Arguments that a planner gives its critic itself."""


class Critic(nn.Module):
    """State values as symexp two-hot, zero before training, beside a slow copy of itself (DreamerV3)."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        units: Units,
        layers: Layers,
        num_bins: NumBins = 255,
        slow_rate: Annotated[float, Between(0, 1, "low"), "share of the way the slow copy moves each update"] = 0.02,
        slow_weight: Annotated[float, AtLeast(0), "of the loss that holds the critic to its slow copy"] = 1.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.slow_rate, self.slow_weight = slow_rate, slow_weight
        self.two_hot = TwoHot(num_bins)
        self.net = MLP(feat_dim, units, layers, num_bins, out_scale=0.0, style=style)
        self.slow = slow_copy(self.net)

    def forward(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "..."]:
        """Decode the value, in fp32."""
        return self.two_hot.decode(self.net(feat))

    def loss(
        self, feat: Float[Tensor, "... F"], target: Float[Tensor, "..."], logits: Float[Tensor, "... K"] | None = None
    ) -> Float[Tensor, "..."]:
        """Cross-entropy with the target's two-hot, and with the slow copy's value as a regulariser.

        ``logits``: what the network makes of ``feat``, where that is known.
        """
        logits = self.net(feat) if logits is None else logits
        with torch.no_grad():
            slow = self.two_hot.decode(self.slow(feat))
        away, from_slow = self.two_hot.losses(logits, target.detach(), slow)
        return away + self.slow_weight * from_slow

    def after_step(self) -> None:
        """Move the slow copy."""
        follow(self.slow, self.net, self.slow_rate)


class ReturnScale(nn.Module):
    """Spread of returns: a moving average of their 5th to 95th percentile, at least 1 (DreamerV3, eq. 7).

    A buffer, so that it is saved. It moves whenever it is shown returns, in every mode.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rate: float = 0.01, quantiles: tuple[float, float] = (0.05, 0.95), least: float = 1.0) -> None:
        super().__init__()
        self.rate, self.quantiles, self.least = rate, quantiles, least
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def forward(self, returns: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Take in these returns. Return the scale to divide by."""
        low, high = percentiles(returns, self.quantiles)
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        return self.scale()

    def scale(self) -> Float[Tensor, ""]:
        """Return the scale as it stands."""
        return (self.high - self.low).clamp(min=self.least)


class ValueScale(nn.Module):
    """Spread of values: a moving average of their 5th to 95th percentile, each at least 1, that begins at 1 (TD-MPC2).

    A buffer, so that it is saved. It moves whenever it is shown values, in every mode.
    """

    spread: Tensor

    def __init__(self, rate: float = 0.01, quantiles: tuple[float, float] = (0.05, 0.95), least: float = 1.0) -> None:
        super().__init__()
        self.rate, self.quantiles, self.least = rate, quantiles, least
        self.register_buffer("spread", torch.ones(()))

    @torch.no_grad()
    def forward(self, values: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Take in these values. Return the scale to divide by."""
        low, high = percentiles(values, self.quantiles)
        self.spread.lerp_((high - low).clamp(min=self.least), self.rate)
        return self.spread

    def scale(self) -> Float[Tensor, ""]:
        """Return the scale as it stands."""
        return self.spread


def percentiles(x: Float[Tensor, "..."], points: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return two quantiles of all numbers, interpolated."""
    x = wide(x).flatten()
    low, high = torch.quantile(x, send(torch.tensor(points, dtype=x.dtype), x.device)).unbind()
    return low, high


def slow_copy(module: nn.Module) -> nn.Module:
    """Copy a module for gradients never to reach."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move every parameter of ``slow`` the share ``rate`` of the way towards ``fast``."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)
