"""What a stochastic latent can be made of: categorical groups, Gaussians, or simplices without noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from worldmodels.common.options import AtLeast, Between, Count, checked
from worldmodels.nets.distributions import (
    categorical_kl,
    log_softmax,
    mix_uniform,
    mode_one_hot,
    sample_one_hot,
    softmax,
)


class LatentSpace(ABC):
    """Turns the raw outputs of a network into a distribution over ``dim`` numbers.

    A distribution is one tensor of parameters with the leading axes of the raw outputs, so that it can be stacked over
    time and stored in a :class:`~dynamics.base.Rollout`.
    """

    dim: int
    """Numbers in one latent."""
    raw_dim: int
    """Network outputs it takes to describe one."""
    gradient: str = "exact"
    """What leads through a draw: ``exact`` or, biased, ``straight_through``."""

    @abstractmethod
    def params(self, raw: Float[Tensor, "... R"]) -> Tensor:
        """Parameters of the distribution, fp32."""

    @abstractmethod
    def draw(self, params: Tensor, sample: bool, generator: Generator | None = None) -> Float[Tensor, "... Z"]:
        """A sample (or the mode) through which gradients flow."""

    @abstractmethod
    def kl(self, p: Tensor, q: Tensor) -> Float[Tensor, "..."]:
        """KL(p || q) in nats, summed over the whole latent."""

    @abstractmethod
    def entropy(self, params: Tensor) -> Float[Tensor, "..."]:
        """Entropy in nats, summed over the whole latent."""


class CategoricalLatent(LatentSpace):
    """``groups`` one-hot variables of ``classes``, straight-through (DreamerV2), with a uniform share (DreamerV3)."""

    gradient = "straight_through"

    @checked
    def __init__(
        self,
        groups: Annotated[Count, "one-hot variables"] = 32,
        classes: Annotated[Count, "values of each"] = 32,
        unimix: Annotated[float, Between(0, 1), "share of the probability that is uniform"] = 0.01,
    ) -> None:
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.dim = self.raw_dim = groups * classes

    def params(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... S C"]:
        """Log-probabilities."""
        return mix_uniform(raw.unflatten(-1, (self.groups, self.classes)), self.unimix)

    def draw(self, params: Tensor, sample: bool, generator: Generator | None = None) -> Float[Tensor, "... Z"]:
        """One-hot groups, flattened."""
        return (sample_one_hot(params, generator) if sample else mode_one_hot(params)).flatten(-2)

    def kl(self, p: Tensor, q: Tensor) -> Float[Tensor, "..."]:
        """Summed over groups."""
        return categorical_kl(p, q).sum(-1)

    def entropy(self, params: Tensor) -> Float[Tensor, "..."]:
        """Summed over groups."""
        return -(params.exp() * params).sum((-1, -2))


class SimNormLatent(CategoricalLatent):
    """Groups of softmax probabilities without noise (TD-MPC2, eq. 5), compared as if each were a categorical."""

    gradient = "exact"

    @checked
    def __init__(
        self, groups: Annotated[Count, "simplices"] = 32, classes: Annotated[Count, "numbers of each"] = 8
    ) -> None:
        super().__init__(groups, classes, unimix=0.0)

    def params(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... S C"]:
        """Log-probabilities."""
        return log_softmax(raw.unflatten(-1, (self.groups, self.classes)).float())

    def draw(self, params: Tensor, sample: bool, generator: Generator | None = None) -> Float[Tensor, "... Z"]:
        """The probabilities themselves."""
        return params.exp().flatten(-2)

    def simplices(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... Z"]:
        """The probabilities at once, where nobody asks for a distribution."""
        return softmax(raw.unflatten(-1, (self.groups, self.classes)).float()).flatten(-2)


class GaussianLatent(LatentSpace):
    """Independent normals with a floor under the standard deviation (PlaNet: 0.1)."""

    @checked
    def __init__(
        self,
        dim: Annotated[Count, "numbers in a latent"] = 32,
        min_std: Annotated[float, AtLeast(0), "floor under the standard deviation"] = 0.1,
    ) -> None:
        self.dim, self.raw_dim, self.min_std = dim, 2 * dim, min_std

    def params(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... Z 2"]:
        """Mean and standard deviation on the last axis."""
        mean, std = raw.float().chunk(2, dim=-1)
        return torch.stack([mean, F.softplus(std) + self.min_std], dim=-1)

    def draw(self, params: Tensor, sample: bool, generator: Generator | None = None) -> Float[Tensor, "... Z"]:
        """Reparameterised."""
        mean, std = params.unbind(-1)
        if not sample:
            return mean
        return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)

    def kl(self, p: Tensor, q: Tensor) -> Float[Tensor, "..."]:
        """Closed form, summed over dimensions."""
        (mean_p, std_p), (mean_q, std_q) = p.unbind(-1), q.unbind(-1)
        ratio = (std_p / std_q).square()
        return 0.5 * (ratio + ((mean_p - mean_q) / std_q).square() - 1 - ratio.log()).sum(-1)

    def entropy(self, params: Tensor) -> Float[Tensor, "..."]:
        """Closed form, summed over dimensions."""
        return (params[..., 1].log() + 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e))).sum(-1)
