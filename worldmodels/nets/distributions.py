"""Distributions as pure functions: symlog, two-hot returns, categorical latents with a uniform share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """Compress magnitudes while keeping the sign (DreamerV3, eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Inverse of :func:`symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


SHORT = 16
"""Classes below which a CPU has no vectorised kernel for a softmax over the last axis, but one for any other axis."""


def softmax(logits: Float[Tensor, "... G C"]) -> Float[Tensor, "... G C"]:
    """Softmax over the last axis; a short one is computed transposed: an eighth of the time for 8 classes."""
    return logits.softmax(-1) if logits.shape[-1] >= SHORT else logits.mT.softmax(-2).mT


def log_softmax(logits: Float[Tensor, "... G C"]) -> Float[Tensor, "... G C"]:
    """Its logarithm, computed likewise."""
    return logits.log_softmax(-1) if logits.shape[-1] >= SHORT else logits.mT.log_softmax(-2).mT


class TwoHot(nn.Module):
    """A scalar as a categorical over symexp-spaced bins, so that its scale need not be known (DreamerV3, eq. 10).

    The bins mirror each other exactly and the expectation is summed over mirrored pairs, ``(p_k - p_-k) b_k``:
    uniform logits then decode to exactly zero, in any precision and compiled, where a plain sum of ``p_k b_k`` leaves
    the rounding error of numbers near 5e8.
    """

    bins: Tensor

    def __init__(self, num_bins: int = 255, limit: float = 20.0) -> None:
        super().__init__()
        if num_bins % 2 == 0:
            raise ValueError(f"an odd number of bins keeps zero on a bin; got {num_bins}")
        positive = symexp(torch.linspace(0, limit, num_bins // 2 + 1, dtype=torch.float64)).float()
        self.register_buffer("bins", torch.cat([-positive.flip(0)[:-1], positive]), persistent=False)

    def decode(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "..."]:
        """Expectation in raw space, fp32."""
        probs = logits.float().softmax(-1)
        half = self.bins.shape[0] // 2
        negative, positive = probs[..., :half].flip(-1), probs[..., half + 1 :]
        return ((positive - negative) * self.bins[half + 1 :]).sum(-1)

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... K"]:
        """Weights on the two bins around ``x`` whose expectation is ``x``; beyond the bins, all on the last one."""
        x = x.float().clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, x.contiguous()).clamp(1, len(self.bins) - 1)
        low, high = self.bins[above - 1], self.bins[above]
        weight = ((x - low) / (high - low)).unsqueeze(-1)
        one_hot = F.one_hot(above, len(self.bins)).to(weight.dtype)
        return weight * one_hot + (1 - weight) * one_hot.roll(-1, dims=-1)

    def loss(self, logits: Float[Tensor, "... K"], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Cross-entropy with the two-hot target."""
        return -(self.encode(x) * logits.float().log_softmax(-1)).sum(-1)


def mix_uniform(logits: Float[Tensor, "... C"], share: float) -> Float[Tensor, "... C"]:
    """Log-probabilities with ``share`` of the mass uniform, so that no KL is infinite (DreamerV3: 1 %)."""
    logits = logits.float()
    if share == 0:
        return logits.log_softmax(-1)
    return torch.log((1 - share) * logits.softmax(-1) + share / logits.shape[-1])


def sample_one_hot(log_probs: Float[Tensor, "... C"], generator: Generator | None = None) -> Float[Tensor, "... C"]:
    """A one-hot draw with the straight-through gradient of the probabilities.

    Inverts the cumulative distribution: one uniform number a variable, where Gumbel noise takes one a class.
    """
    probs = log_probs.exp()
    cumulative = probs.detach().cumsum(-1)
    shape = (*probs.shape[:-1], 1)
    uniform = torch.rand(shape, generator=generator, device=probs.device, dtype=probs.dtype) * cumulative[..., -1:]
    index = (cumulative <= uniform).sum(-1).clamp_max(probs.shape[-1] - 1)
    return straight_through(index, probs)


def mode_one_hot(log_probs: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
    """The likeliest class as one-hot, with the straight-through gradient of the probabilities."""
    return straight_through(log_probs.argmax(-1), log_probs.exp())


def straight_through(index: Tensor, probs: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
    """One-hot of ``index`` in the forward pass, ``probs`` in the backward pass."""
    hard = torch.zeros_like(probs).scatter_(-1, index.unsqueeze(-1), 1.0)
    return hard + (probs - probs.detach()) if probs.requires_grad else hard


def categorical_kl(p: Float[Tensor, "... C"], q: Float[Tensor, "... C"]) -> Float[Tensor, "..."]:
    """KL(p || q) of log-probabilities, summed over the last axis."""
    return (p.exp() * (p - q)).sum(-1)
