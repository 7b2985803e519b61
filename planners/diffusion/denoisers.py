"""Networks that see a noisy trajectory whole: a temporal U-Net (Diffuser) and a transformer with adaptive LayerNorm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from worldmodels.common.options import Count, Odd, checked
from worldmodels.errors import OptionError
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, init_linear_
from worldmodels.nets.rotary import apply_rotary, rotary_angles


class Denoiser(Protocol):
    """Built with ``in_dim`` and ``out_dim`` numbers a step and ``cond_dim`` of what everything depends on."""

    def __call__(self, x: Float[Tensor, "N L I"], cond: Float[Tensor, "N C"]) -> Float[Tensor, "N L O"]:
        """One output a step, from all steps."""


class StepEmbedding(nn.Module):
    """Diffusion step 0, 1, … to [N, dim]: sines of octaves, then two layers (Diffuser, appendix C)."""

    def __init__(self, dim: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(
            init_linear_(nn.Linear(dim, 2 * dim), style=style),
            nn.SiLU(),
            init_linear_(nn.Linear(2 * dim, dim), style=style),
        )

    @override
    def forward(self, step: Int64[Tensor, " N"]) -> Float[Tensor, "N C"]:
        half = self.dim // 2
        rate = torch.exp(torch.arange(half, device=step.device) * (-math.log(10_000) / max(1, half - 1)))
        angle = step[:, None].float() * rate
        return self.net(torch.cat([angle.sin(), angle.cos()], dim=-1))


class ConvBlock(nn.Module):
    """Two convolutions over time with the condition added between them, and a residual path (Diffuser, appendix C)."""

    def __init__(self, in_dim: int, out_dim: int, cond_dim: int, kernel: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.first = _conv(in_dim, out_dim, kernel, style)
        self.second = _conv(out_dim, out_dim, kernel, style)
        self.cond = init_linear_(nn.Linear(cond_dim, out_dim), style=style)
        self.skip = init_linear_(nn.Conv1d(in_dim, out_dim, 1), style=style) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Float[Tensor, "N D L"], cond: Float[Tensor, "N C"]) -> Float[Tensor, "N E L"]:
        """Convolve at the same length."""
        return self.skip(x) + self.second(self.first(x) + self.cond(F.silu(cond))[:, :, None])


class TemporalUNet(nn.Module):
    """Convolutions over time at several scales (Janner et al. 2022). Any length, and nothing tells where a step is.

    What a step's output depends on is bounded by the kernels, which is why pieces of several recorded trajectories can
    come together in one plan. More ``scales`` see farther and stitch less. ``in_dim`` and ``out_dim`` are numbers a
    step, ``cond_dim`` those of the condition.
    """

    @checked
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        cond_dim: int,
        width: Annotated[Count, "channels at the first scale"] = 64,
        scales: Annotated[Sequence[Count], "multiples of the width; each after the first halves the length"] = (1,),
        kernel: Annotated[int, Odd(), "steps that a convolution sees"] = 5,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if not scales:
            raise OptionError("scales", scales, "must name at least one multiple of the width")
        dims = [width * scale for scale in scales]
        ends = itertools.pairwise([in_dim, *dims])
        self.down = nn.ModuleList(
            nn.ModuleList([ConvBlock(a, b, cond_dim, kernel, style), ConvBlock(b, b, cond_dim, kernel, style)])
            for a, b in ends
        )
        self.shrink = nn.ModuleList(
            init_linear_(nn.Conv1d(dim, dim, 3, stride=2, padding=1), style=style) for dim in dims[:-1]
        )
        self.middle = nn.ModuleList(ConvBlock(dims[-1], dims[-1], cond_dim, kernel, style) for _ in range(2))
        self.up = nn.ModuleList(
            nn.ModuleList([ConvBlock(2 * b, a, cond_dim, kernel, style), ConvBlock(a, a, cond_dim, kernel, style)])
            for a, b in reversed(list(itertools.pairwise([dims[0], *dims])))
        )
        self.out = nn.Sequential(
            _conv(dims[0], dims[0], kernel, style), init_linear_(nn.Conv1d(dims[0], out_dim, 1), style=style)
        )

    def forward(self, x: Float[Tensor, "N L I"], cond: Float[Tensor, "N C"]) -> Float[Tensor, "N L O"]:
        """Go down to the coarsest scale and up again, past what was seen on the way."""
        x, passed = rearrange(x, "n l d -> n d l"), []
        for level, blocks in enumerate(self.down):
            if level > 0:
                x = self.shrink[level - 1](x)
            for block in blocks:
                x = block(x, cond)
            passed.append(x)
        for block in self.middle:
            x = block(x, cond)
        for blocks, seen in zip(self.up, reversed(passed), strict=True):
            if x.shape[-1] != seen.shape[-1]:
                x = F.interpolate(x, size=seen.shape[-1])
            x = torch.cat([x, seen], dim=1)
            for block in blocks:
                x = block(x, cond)
        return rearrange(self.out(x), "n d l -> n l d")


class TrajectoryTransformer(nn.Module):
    """Attention over all steps, the condition in scale, shift and gate of every block (Peebles & Xie 2023, adaLN-Zero).

    Departs in its last norm, which has no condition, and its output layer, which does not begin at zero. ``in_dim`` and
    ``out_dim`` are numbers a step, ``cond_dim`` those of the condition.
    """

    @checked
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        cond_dim: int,
        width: Annotated[Count, "channels"] = 128,
        layers: Annotated[Count, "blocks"] = 4,
        heads: Annotated[Count, "of attention; they divide the width into even parts"] = 4,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise OptionError("width", width, f"must divide into {heads} heads of an even number")
        self.start = init_linear_(nn.Linear(in_dim, width), style=style)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, cond_dim, style) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = init_linear_(nn.Linear(width, out_dim), style=style)

    def forward(self, x: Float[Tensor, "N L I"], cond: Float[Tensor, "N C"]) -> Float[Tensor, "N L O"]:
        """Let each step attend to all."""
        place = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        x = self.start(x)
        for block in self.blocks:
            x = block(x, cond, place)
        return self.out(self.norm(x))


class AttentionBlock(nn.Module):
    """Attention and a hidden layer, both scaled, shifted and gated by the condition. Begins as the identity."""

    def __init__(self, width: int, heads: int, cond_dim: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.adapt = init_linear_(nn.Linear(cond_dim, 6 * width), 0.0, style)
        self.qkv = init_linear_(nn.Linear(width, 3 * width), style=style)
        self.proj = init_linear_(nn.Linear(width, width), style=style)
        self.hidden = nn.Sequential(
            init_linear_(nn.Linear(width, 4 * width), style=style),
            nn.GELU(approximate="tanh"),
            init_linear_(nn.Linear(4 * width, width), style=style),
        )

    def forward(
        self, x: Float[Tensor, "N L W"], cond: Float[Tensor, "N C"], place: Int64[Tensor, "N L"]
    ) -> Float[Tensor, "N L W"]:
        """Apply each half with a residual around it."""
        scale_a, shift_a, gate_a, scale_h, shift_h, gate_h = self.adapt(F.silu(cond))[:, None].chunk(6, dim=-1)
        x = x + gate_a * self._attend(self.norms[0](x) * (1 + scale_a) + shift_a, place)
        return x + gate_h * self.hidden(self.norms[1](x) * (1 + scale_h) + shift_h)

    def _attend(self, x: Tensor, place: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "n l (three h d) -> three n h l d", three=3, h=self.heads).unbind(0)
        cos, sin = rotary_angles(place, q.shape[-1])
        attended = F.scaled_dot_product_attention(apply_rotary(q, cos, sin), apply_rotary(k, cos, sin), v)
        return self.proj(rearrange(attended, "n h l d -> n l (h d)"))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels [N, D, L] of each step by itself: a norm over time would let every step see all."""

    @override
    def forward(self, x: Float[Tensor, "N D L"]) -> Float[Tensor, "N D L"]:
        return super().forward(x.mT).mT


def _conv(in_dim: int, out_dim: int, kernel: int, style: NetStyle) -> nn.Sequential:
    """Over time, without changing its length."""
    conv = init_linear_(nn.Conv1d(in_dim, out_dim, kernel, padding=kernel // 2), style=style)
    return nn.Sequential(conv, ChannelNorm(out_dim), nn.SiLU())
