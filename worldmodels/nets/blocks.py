"""Operators of a recurrent cell that eager PyTorch makes many of, backwards above all."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodels.nets.deferred import Rule, deferrable


def block_gradient(
    x: Float[Tensor, "N I"], grad: Float[Tensor, "N O"], weight: Float[Tensor, "K J P"]
) -> Float[Tensor, "K J P"]:
    """Return the gradient of a block product's weight."""
    return _by_block(x, len(weight)).mT @ _by_block(grad, len(weight))


@deferrable(Rule(1, {0: lambda x, grad, _: grad.sum(0), 2: lambda x, grad, args: block_gradient(x, grad, args[2])}))
def block_product(
    others: Float[Tensor, "#N O"], x: Float[Tensor, "N I"], weight: Float[Tensor, "K J P"]
) -> Float[Tensor, "N O"]:
    """Return ``others`` and the product of each of K blocks of x with a map of its own. Blocks are consecutive.

    A bias is one row of ``others``.

    ``baddbmm`` with results written where they belong, which autocast and the compiler do in their own way.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        blocks = len(weight)
        return torch.baddbmm(_by_block(others, blocks), _by_block(x, blocks), weight).transpose(0, 1).flatten(1)
    return _BlockProduct.apply(others, x, weight)


@deferrable(Rule(1, {2: lambda x, grad, _: grad.mT @ x}))
def added_product(
    others: Float[Tensor, "N O"], x: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]
) -> Float[Tensor, "N O"]:
    """Return ``others + x weight^T`` in one operator."""
    return torch.addmm(others, x, weight.mT)


def lerp(start: Float[Tensor, "*S"], end: Float[Tensor, "*S"], weight: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """``torch.lerp`` with a gradient of four operators instead of seven."""
    return torch.lerp(start, end, weight) if torch.compiler.is_compiling() else _Lerp.apply(start, end, weight)


def _by_block(x: Float[Tensor, "N I"], blocks: int) -> Float[Tensor, "K N J"]:
    return x.unflatten(1, (blocks, -1)).transpose(0, 1)


class _BlockProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, others: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        blocks = len(weight)
        ctx.save_for_backward(x, weight)
        ctx.shared = len(others) == 1 < len(x)
        out = x.new_empty(len(x), blocks * weight.shape[2])
        torch.baddbmm(_by_block(others, blocks), _by_block(x, blocks), weight, out=_by_block(out, blocks))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        blocks, by_others, by_x, by_weight = len(weight), None, None, None
        if ctx.needs_input_grad[0]:
            by_others = grad.sum(0, keepdim=True) if ctx.shared else grad
        if ctx.needs_input_grad[1]:
            by_x = torch.empty_like(x)
            torch.bmm(_by_block(grad, blocks), weight.mT, out=_by_block(by_x, blocks))
        if ctx.needs_input_grad[2]:
            by_weight = block_gradient(x, grad, weight)
        return by_others, by_x, by_weight


class _Lerp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(start, end, weight)
        return torch.lerp(start, end, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        start, end, weight = ctx.saved_tensors
        by_end = grad * weight
        return grad - by_end, by_end, (end - start).mul_(grad)
