"""Distributions that sampling planners draw action sequences from: one for Box actions, one for Discrete ones.

Both are described by ``mean`` and ``spread`` [N, H, A] and draw by transforming standard normal noise, so that
planners need not know which one they use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from worldmodels.errors import OptionError
from worldmodels.nets.choices import Discrete, each, likeliest, sizes_of
from worldmodels.nets.distributions import exponential


@dataclass(frozen=True)
class Proposal:
    """N independent distributions over sequences of H actions."""

    mean: Float[Tensor, "N H A"]
    spread: Float[Tensor, "N H A"]

    def interpolate(self, new: Proposal, momentum: float) -> Proposal:
        """Keep the share ``momentum`` of this proposal and take the rest from ``new``."""
        if momentum == 0:
            return new
        return Proposal(self.mean.lerp(new.mean, 1 - momentum), self.spread.lerp(new.spread, 1 - momentum))


@runtime_checkable
class ProposalFamily(Protocol):
    """A kind of distribution over action sequences."""

    def unknown(self, mean: Tensor) -> Tensor:
        """Return a mean of the same shape of which nothing is known."""

    def widen(self, mean: Tensor) -> Proposal:
        """Search widely around the mean [N, H, A] of an earlier plan, or around an unknown one."""

    def draw(self, mean: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal noise into actions that an environment accepts. Shapes broadcast."""

    def fit(self, elites: Tensor, weights: Tensor) -> Proposal:
        """Describe elites [N, E, H, A] with weights [N, E] that sum to 1."""

    def mode(self, mean: Tensor) -> Tensor:
        """Return the single most typical action sequence."""


class GaussianProposal:
    """Box actions: normal, clamped to [-1, 1], with a floor under the deviation so that search never dies out."""

    def __init__(self, min_std: float, max_std: float) -> None:
        self.min_std = min_std
        self.max_std = max_std

    def unknown(self, mean: Tensor) -> Tensor:
        """Return the middle of the box."""
        return torch.zeros_like(mean)

    def widen(self, mean: Tensor) -> Proposal:
        """Take ``max_std`` everywhere: the next plan may differ much from the last one."""
        return Proposal(mean, torch.full_like(mean, self.max_std))

    def draw(self, mean: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal noise into actions that an environment accepts. Shapes broadcast."""
        return torch.addcmul(mean, spread, noise).clamp_(-1, 1)

    def fit(self, elites: Tensor, weights: Tensor) -> Proposal:
        """Weighted mean and deviation, the latter within [min_std, max_std]."""
        weights = weights[:, :, None, None]
        mean = (weights * elites).sum(dim=1)
        variance = (weights * (elites - mean[:, None]).square()).sum(dim=1)
        return Proposal(mean, variance.sqrt().clamp(self.min_std, self.max_std))

    @override
    def mode(self, mean: Tensor) -> Tensor:
        return mean


class CategoricalProposal:
    """Choices, one-hot: ``mean`` holds probabilities, ``spread`` the share of draws made uniformly instead.

    ``sizes`` are those of the one-hots that make up an action.
    """

    warm_spread = 0.5
    """Share of uniform draws around an earlier plan, as ``max_std`` is for Box actions."""

    def __init__(self, sizes: tuple[int, ...], min_prob: float) -> None:
        self.sizes = sizes
        self.min_prob = min_prob

    def unknown(self, mean: Tensor) -> Tensor:
        """Return equal probabilities."""
        return each(lambda part: torch.full_like(part, 1 / part.shape[-1]), self.sizes, mean)

    def widen(self, mean: Tensor) -> Proposal:
        """Draw half of the actions uniformly: the next plan may differ much from the last one."""
        return Proposal(mean, torch.full_like(mean, self.warm_spread))

    def draw(self, mean: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
        """Sample one-hot actions. Noise correlated in time gives actions correlated in time."""
        return likeliest(mean.lerp(self.unknown(mean), spread) / exponential(noise), self.sizes)

    def fit(self, elites: Tensor, weights: Tensor) -> Proposal:
        """Fit weighted frequencies. No probability drawn from falls below ``min_prob``."""
        mean = (weights[:, :, None, None] * elites).sum(dim=1)
        return Proposal(
            mean, each(lambda part: torch.full_like(part, self.min_prob * part.shape[-1]), self.sizes, mean)
        )

    def mode(self, mean: Tensor) -> Tensor:
        """Take the most probable action of each step."""
        return likeliest(mean, self.sizes)


def exploring(action_dim: int, discrete: Discrete, noise_std: float) -> ProposalFamily:
    """Return what explores around a plan: noise of one deviation or, of Discrete actions, a share of uniform ones."""
    if not discrete:
        return GaussianProposal(noise_std, noise_std)
    if noise_std > 1:
        raise OptionError("noise_std", noise_std, "must be at most 1 for Discrete actions, of which it is a share")
    return CategoricalProposal(sizes_of(action_dim, discrete), 0.0)


def color_noise(white: Float[Tensor, "*batch H A"], beta: float) -> Float[Tensor, "*batch H A"]:
    """Give white noise the spectrum ``f ** -beta`` along H, because smooth actions explore farther (iCEM, section 3.1).

    0 leaves it white, 1 is pink, 2 is red. Every element stays standard normal: the filter has unit power. Pinneri et
    al., "Sample-efficient Cross-Entropy Method for Real-time Planning", 2020. The mean counts as the lowest frequency.
    """
    length = white.shape[-2]
    if beta == 0 or length == 1:
        return white
    frequency = torch.fft.rfftfreq(length, device=white.device).clamp(min=1 / length)
    gain = frequency ** (-beta / 2)
    # Every frequency but the mean, and the Nyquist frequency of an even length, stands for a conjugate pair.
    share = torch.full_like(gain, 2.0)
    share[0] = 1.0
    if length % 2 == 0:
        share[-1] = 1.0
    gain = gain * (length / (share * gain.square()).sum()).sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, dim=-2) * gain[:, None], n=length, dim=-2)
