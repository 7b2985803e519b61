"""Layers shared by every network: Dreamer-style initialisation, hidden layers, block-diagonal maps."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BlockLinear(nn.Module):
    """A linear map that is block-diagonal: ``blocks`` separate maps side by side (DreamerV3's block GRU)."""

    def __init__(self, in_dim: int, out_dim: int, blocks: int) -> None:
        super().__init__()
        if in_dim % blocks or out_dim % blocks:
            raise ValueError(f"{in_dim} inputs and {out_dim} outputs do not divide into {blocks} blocks")
        self.weight = nn.Parameter(torch.empty(blocks, in_dim // blocks, out_dim // blocks))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        with torch.no_grad():
            for block in self.weight:
                trunc_normal_(block.T)

    def forward(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """Map each block of every row; blocks are consecutive ranges of the axis."""
        blocks = x.unflatten(-1, (self.weight.shape[0], -1)).transpose(0, 1)
        return torch.bmm(blocks, self.weight).transpose(0, 1).flatten(1) + self.bias


class Hidden(nn.Sequential):
    """Linear, LayerNorm, SiLU: the one hidden layer everything here is made of.

    LayerNorm stands where DreamerV3's later versions have RMSNorm: it has a fused kernel on every device, and of a
    plan's time on a CPU the six small kernels of an RMSNorm took a fifth.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(init_(nn.Linear(in_dim, out_dim)), nn.LayerNorm(out_dim), nn.SiLU())


class MLP(nn.Sequential):
    """``layers`` hidden layers of ``units``; where ``out_dim`` is given, a linear output scaled by ``out_scale``."""

    def __init__(
        self, in_dim: int, units: int, layers: int, out_dim: int | None = None, out_scale: float = 1.0
    ) -> None:
        dims = [in_dim] + [units] * layers
        modules: list[nn.Module] = [Hidden(a, b) for a, b in itertools.pairwise(dims)]
        if out_dim is not None:
            modules.append(init_(nn.Linear(dims[-1], out_dim), out_scale))
        super().__init__(*modules)
        self.out_dim = dims[-1] if out_dim is None else out_dim


def trunc_normal_(weight: Tensor, scale: float = 1.0) -> None:
    """Truncated normal with standard deviation ``scale / sqrt(fan_in)``, in place; ``weight`` is [out, in, ...].

    The factor 0.8796 is the standard deviation of a unit normal cut at two.
    """
    std = scale / math.sqrt(weight[0].numel()) / 0.87962566
    if scale == 0:
        nn.init.zeros_(weight)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_(layer: nn.Module, scale: float = 1.0) -> nn.Module:
    """Initialise a linear or convolutional layer with :func:`trunc_normal_` and a zero bias; return it."""
    with torch.no_grad():
        if isinstance(layer, nn.ConvTranspose2d):  # its weight is [in, out, k, k], and stride^2 inputs overlap
            trunc_normal_(layer.weight.transpose(0, 1), scale * math.prod(layer.stride) ** 0.5)
        else:
            trunc_normal_(layer.weight, scale)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer
