"""Distributions over classes: one-hot draws with a gradient, and the latent spaces made of groups of classes."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from typing_extensions import override

from worldmodels.common.options import Between, Count, checked
from worldmodels.common.precision import wide, wide_dtype
from worldmodels.nets.distributions import LatentSpace

SHORT = 16
"""Classes below which a CPU has no vectorised kernel for a softmax over the last axis, but one for any other axis."""


def softmax(logits: Float[Tensor, "... G C"]) -> Float[Tensor, "... G C"]:
    """Softmax over the last axis. A short one is computed transposed: an eighth of the time for 8 classes."""
    return logits.softmax(-1) if logits.shape[-1] >= SHORT else logits.mT.softmax(-2).mT


def log_softmax(logits: Float[Tensor, "... G C"]) -> Float[Tensor, "... G C"]:
    """Its logarithm, computed likewise."""
    return logits.log_softmax(-1) if logits.shape[-1] >= SHORT else logits.mT.log_softmax(-2).mT


def mixed_probs(logits: Float[Tensor, "... C"], share: float) -> Float[Tensor, "... C"]:
    """Probabilities with ``share`` of the mass uniform, fp32."""
    probs = wide(logits).softmax(-1)
    if share == 0:
        return probs
    even = torch.tensor(share / logits.shape[-1], dtype=torch.float64)  # a number, wherever the others are
    return torch.add(even, probs, alpha=1 - share)


def mix_uniform(logits: Float[Tensor, "... C"], share: float) -> Float[Tensor, "... C"]:
    """Log-probabilities with ``share`` of the mass uniform, so that no KL is infinite (DreamerV3: 1 %)."""
    return wide(logits).log_softmax(-1) if share == 0 else mixed_probs(logits, share).log()


def sample_one_hot(
    probs: Float[Tensor, "... C"], uniform: Float[Tensor, "..."], eye: Float[Tensor, "C C"] | None = None
) -> Float[Tensor, "... C"]:
    """A one-hot draw with the straight-through gradient of the probabilities.

    Inverts the cumulative distribution: one number in [0, 1) a variable, where Gumbel noise takes one a class.
    """
    cumulative = probs.detach()[..., :-1].cumsum(-1)  # the last class has the rest
    index = torch.searchsorted(cumulative, uniform.unsqueeze(-1), right=True)
    return straight_through(index.squeeze(-1), probs, eye)


def mode_one_hot(probs: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
    """The likeliest class as one-hot, with the straight-through gradient of the probabilities."""
    return straight_through(probs.argmax(-1), probs)


def straight_through(
    index: Int64[Tensor, "..."], probs: Float[Tensor, "... C"], eye: Float[Tensor, "C C"] | None = None
) -> Float[Tensor, "... C"]:
    """One-hot of ``index`` in the forward pass, ``probs`` in the backward pass. With an identity, in one operator."""
    return _StraightThrough.apply(probs, index, eye)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(probs: Tensor, index: Tensor, eye: Tensor | None) -> Tensor:
        return (
            torch.zeros_like(probs).scatter_(-1, index.unsqueeze(-1), 1.0) if eye is None else F.embedding(index, eye)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Keep nothing: the gradient is handed on."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def categorical_kl(p: Float[Tensor, "... C"], q: Float[Tensor, "... C"]) -> Float[Tensor, "..."]:
    """KL(p || q) of log-probabilities, summed over the last axis."""
    return _summands(p, q).sum(-1)


def _summands(p: Tensor, q: Tensor) -> Tensor:
    return p.exp() * (p - q)


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
        self._eyes: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @override
    def params(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... S C"]:
        return mix_uniform(raw.unflatten(-1, (self.groups, self.classes)), self.unimix)

    @override
    def noise(self, like: Tensor, generator: Generator | None = None) -> Tensor:
        shape = (*like.shape[:-1], self.groups)
        return torch.rand(shape, generator=generator, device=like.device, dtype=wide_dtype(like))

    @override
    def draw(self, raw: Float[Tensor, "... R"], noise: Float[Tensor, "... U"] | None) -> Float[Tensor, "... Z"]:
        probs = mixed_probs(raw.unflatten(-1, (self.groups, self.classes)), self.unimix)
        return (mode_one_hot(probs) if noise is None else sample_one_hot(probs, noise, self._eye(probs))).flatten(-2)

    def _eye(self, probs: Tensor) -> Tensor | None:
        """Return an identity on the device, made once; none for the compiler, which has no use for it."""
        if torch.compiler.is_compiling():
            return None
        kind = (probs.device, probs.dtype)
        if kind not in self._eyes:
            self._eyes[kind] = torch.eye(self.classes, device=probs.device, dtype=probs.dtype)
        return self._eyes[kind]

    @override
    def kl(self, p: Tensor, q: Tensor) -> Float[Tensor, "..."]:
        return _summands(p, q).sum((-1, -2))

    @override
    def entropy(self, params: Tensor) -> Float[Tensor, "..."]:
        return -(params.exp() * params).sum((-1, -2))


class SimNormLatent(CategoricalLatent):
    """Groups of softmax probabilities without noise (TD-MPC2, eq. 5), compared as if each were a categorical."""

    gradient = "exact"

    @checked
    def __init__(
        self, groups: Annotated[Count, "simplices"] = 32, classes: Annotated[Count, "numbers of each"] = 8
    ) -> None:
        super().__init__(groups, classes, unimix=0.0)

    @override
    def params(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... S C"]:
        return log_softmax(wide(raw.unflatten(-1, (self.groups, self.classes))))

    def draw(self, raw: Float[Tensor, "... R"], noise: Float[Tensor, "... U"] | None) -> Float[Tensor, "... Z"]:
        """Return the probabilities themselves."""
        return self.simplices(raw)

    def simplices(self, raw: Float[Tensor, "... R"]) -> Float[Tensor, "... Z"]:
        """The probabilities at once, where nobody asks for a distribution."""
        return softmax(wide(raw.unflatten(-1, (self.groups, self.classes)))).flatten(-2)
