"""Distributions over numbers: two-hot returns, what every latent space can do, and the Gaussian one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from typing_extensions import override

from worldmodels.common.options import AtLeast, Count, checked
from worldmodels.common.precision import wide, wide_dtype


def symlog(x: Tensor) -> Tensor:
    """Compress magnitudes while keeping the sign (DreamerV3, eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Invert :func:`symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class TwoHot(nn.Module):
    """A scalar as a categorical over symexp-spaced bins, so that its scale need not be known (DreamerV3, eq. 10).

    The bins mirror each other exactly and the expectation is summed over mirrored pairs, ``(p_k - p_-k) b_k``:
    uniform logits then decode to exactly zero, in any precision and compiled, where a plain sum of ``p_k b_k`` leaves
    the rounding error of numbers near 5e8.
    """

    bins: Tensor
    gaps: Tensor

    def __init__(self, num_bins: int = 255, limit: float = 20.0) -> None:
        super().__init__()
        if num_bins % 2 == 0:
            raise ValueError(f"an odd number of bins keeps zero on a bin; got {num_bins}")
        positive = symexp(torch.linspace(0, limit, num_bins // 2 + 1, dtype=torch.float64)).to(
            torch.get_default_dtype()
        )
        self._set_bins(positive)

    def _set_bins(self, positive: Float[Tensor, " P"]) -> None:
        self.register_buffer("bins", torch.cat([-positive.flip(0)[:-1], positive]), persistent=False)
        self.register_buffer("gaps", self.bins.diff(), persistent=False)

    def decode(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "..."]:
        """Expectation in raw space, fp32."""
        probs = wide(logits).softmax(-1)
        half = self.bins.shape[0] // 2
        negative, positive = probs[..., :half].flip(-1), probs[..., half + 1 :]
        return ((positive - negative) * self.bins[half + 1 :]).sum(-1)

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... K"]:
        """Weight the two bins around ``x`` so that their expectation is ``x``. Beyond the bins the last one has all."""
        below, weight = self.place(x)
        weight = weight.unsqueeze(-1)
        one_hot = F.one_hot(below, len(self.bins)).to(weight.dtype)
        return (1 - weight) * one_hot + weight * one_hot.roll(1, dims=-1)

    def place(self, x: Float[Tensor, "..."]) -> tuple[Int64[Tensor, "..."], Float[Tensor, "..."]]:
        """Return the bin below ``x``, which has one above it, and the latter's weight."""
        x = wide(x).contiguous()
        below = torch.searchsorted(self.bins[1:-1], x)
        return below, ((x - self.bins[below]) / self.gaps[below]).clamp(0, 1)

    def loss(self, logits: Float[Tensor, "... K"], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Cross-entropy with the two-hot target."""
        return self.losses(logits, x)[0]

    def losses(self, logits: Float[Tensor, "... K"], *targets: Float[Tensor, "..."]) -> list[Float[Tensor, "..."]]:
        """Cross-entropies with the two-hots of several targets: of one softmax, and a gather each."""
        log_probs = wide(logits).log_softmax(-1)
        losses = []
        for x in targets:
            below, weight = self.place(x)
            both = log_probs.gather(-1, torch.stack([below, below + 1], dim=-1))
            losses.append((both * torch.stack([weight - 1, -weight], dim=-1)).sum(-1))
        return losses


class SymlogTwoHot(TwoHot):
    """A scalar as a categorical over bins that are even under symlog, where the expectation is taken too (TD-MPC2)."""

    def __init__(self, num_bins: int = 101, limit: float = 10.0) -> None:
        super().__init__(num_bins, limit)
        self._set_bins(torch.linspace(0, limit, num_bins // 2 + 1, dtype=torch.float64).to(self.bins.dtype))

    @override
    def decode(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "..."]:
        return symexp(super().decode(logits))

    @override
    def place(self, x: Float[Tensor, "..."]) -> tuple[Int64[Tensor, "..."], Float[Tensor, "..."]]:
        return super().place(symlog(wide(x)))


class LatentSpace(ABC):
    """Turns the raw outputs of a network into a distribution over ``dim`` numbers.

    A distribution is one tensor of parameters with the leading axes of the raw outputs, so that it can be stacked over
    time and stored in a rollout.
    """

    dim: int
    """Numbers in one latent."""
    raw_dim: int
    """Network outputs it takes to describe one."""
    gradient: str = "exact"
    """Gradient through a draw: ``exact`` or, biased, ``straight_through``."""

    @abstractmethod
    def params(self, raw: Float[Tensor, "... R"]) -> Tensor:
        """Parameters of the distribution, fp32."""

    @abstractmethod
    def noise(self, like: Float[Tensor, "... R"], generator: Generator | None = None) -> Float[Tensor, "... U"]:
        """Return the noise that draws take, for rows with the leading axes of ``like``."""

    @abstractmethod
    def draw(self, raw: Float[Tensor, "... R"], noise: Float[Tensor, "... U"] | None) -> Float[Tensor, "... Z"]:
        """Return a sample through which gradients flow, from raw outputs at once. Without noise: the mode."""

    @abstractmethod
    def kl(self, p: Tensor, q: Tensor) -> Float[Tensor, "..."]:
        """KL(p || q) in nats, summed over the whole latent."""

    @abstractmethod
    def entropy(self, params: Tensor) -> Float[Tensor, "..."]:
        """Entropy in nats, summed over the whole latent."""


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
        """Return mean and standard deviation on the last axis."""
        mean, std = wide(raw).chunk(2, dim=-1)
        return torch.stack([mean, F.softplus(std) + self.min_std], dim=-1)

    @override
    def noise(self, like: Tensor, generator: Generator | None = None) -> Tensor:
        shape = (*like.shape[:-1], self.dim)
        return torch.randn(shape, generator=generator, device=like.device, dtype=wide_dtype(like))

    @override
    def draw(self, raw: Float[Tensor, "... R"], noise: Float[Tensor, "... U"] | None) -> Float[Tensor, "... Z"]:
        mean, std = self.params(raw).unbind(-1)
        return mean if noise is None else torch.addcmul(mean, std, noise)

    def kl(self, p: Tensor, q: Tensor) -> Float[Tensor, "..."]:
        """Closed form, summed over dimensions."""
        (mean_p, std_p), (mean_q, std_q) = p.unbind(-1), q.unbind(-1)
        ratio = (std_p / std_q).square()
        return 0.5 * (ratio + ((mean_p - mean_q) / std_q).square() - 1 - ratio.log()).sum(-1)

    def entropy(self, params: Tensor) -> Float[Tensor, "..."]:
        """Closed form, summed over dimensions."""
        return (params[..., 1].log() + 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e))).sum(-1)


def exponential(normal: Tensor) -> Tensor:
    """Map standard normal to unit exponential numbers, through which a draw from probabilities p is argmax(p / e)."""
    return -torch.special.log_ndtr(normal)
