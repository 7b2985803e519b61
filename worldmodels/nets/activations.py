"""Activations by the name that a style says."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class Mish(nn.Mish):
    """``x tanh(log(1 + e^x))``, as :class:`torch.nn.Mish`. A GPU and the compiler have one kernel for it.

    On a CPU that kernel takes three times as long as this, and its backward pass does not.
    """

    @override
    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        wide = x.dtype in (torch.float32, torch.float64)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not wide:
            return F.mish(x)
        return _Mish.apply(x) if x.requires_grad and torch.is_grad_enabled() else mish(x)


def mish(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return Mish by sigmoids alone: ``x s (1 + q) / (1 + q^2)`` with s of x and q = 1 - s, which overflow nowhere."""
    s = torch.sigmoid(x)
    q = torch.rsub(s, 1)
    return torch.addcmul(s, s, q).mul_(x).div_(q.square_().add_(1))


class _Mish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return mish(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return torch.ops.aten.mish_backward(grad, *ctx.saved_tensors)


ACTIVATIONS = {"silu": nn.SiLU, "mish": Mish, "gelu": nn.GELU, "elu": nn.ELU, "relu": nn.ReLU}
