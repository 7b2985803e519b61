"""RMSNorm of few operators: eager PyTorch makes six of one on a CPU, and fourteen of its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from worldmodels.common.precision import wide
from worldmodels.nets.deferred import Rule, deferrable

_ZERO = torch.zeros(())


class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last axis, computed in fp32, of the precision of its input.

    ``y = w x / sqrt(mean(x^2) + eps)``. A GPU and the compiler have one kernel for it; elsewhere it is :func:`rms`.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, eps=eps)
        self.root, self.floor = math.sqrt(dim), torch.tensor(math.sqrt(dim * eps), dtype=torch.float64)

    @override
    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        if x.is_cuda or torch.compiler.is_compiling():
            return super().forward(wide(x)).to(x.dtype)
        return rms(wide(x), self.weight, self.floor, self.root).to(x.dtype)


class ChannelRMSNorm(RMSNorm):
    """RMSNorm over the channels of feature maps, each place by itself (DreamerV3)."""

    @override
    def forward(self, x: Float[Tensor, "N C S S"]) -> Float[Tensor, "N C S S"]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@deferrable(Rule(0, {1: lambda x, grad, args: args[3] * (unit(x, args[2])[0] * grad).sum(0)}, narrowed=False))
def rms(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], floor: Float[Tensor, ""], root: float
) -> Float[Tensor, "... D"]:
    """Return ``root w x / sqrt(|x|^2 + floor^2)``."""
    return _Scale.apply(x, weight, floor, root)


def unit(x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` over its length, and the length, which ``floor`` bounds from below."""
    length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
    return x / length, length


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, floor: Tensor, root: float) -> Tensor:
        direction, length = unit(x, floor)
        ctx.root = root
        ctx.save_for_backward(direction, length, weight)
        return _scaled(direction, weight, root)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        direction, length, weight = ctx.saved_tensors
        by_direction = _scaled(grad, weight, ctx.root)
        along = (by_direction * direction).sum(-1, keepdim=True)
        by_x = by_direction.addcmul_(direction, along, value=-1).div_(length)
        by_weight = _scaled(grad, direction, ctx.root).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return by_x, by_weight, None, None


def _scaled(x: Tensor, by: Tensor, root: float) -> Tensor:
    """``root * x * by`` in one operator."""
    return torch.addcmul(_ZERO, x, by, value=root)
