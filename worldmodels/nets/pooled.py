"""Images as DreamerV3's code has them: convolutions with pooling, and a decoder that grows what memory and latent draw.

The encoder and decoder beside them (:mod:`worldmodels.nets.encoders`) stride instead, which is cheaper on a CPU.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldmodels.common.options import Count, checked
from worldmodels.common.precision import wide
from worldmodels.errors import OptionError
from worldmodels.nets.decoders import ImageDecoder
from worldmodels.nets.encoders import check_image_size, stages
from worldmodels.nets.layers import DEFAULT_STYLE, BlockLinear, DenseNormAct, NetStyle, init_linear_

CHANNEL_MULTIPLES = (2, 3, 4, 4)
"""Channels of the stages, in units of ``depth``; each stage halves the image."""
KERNEL = 5
BLOCKS = 8
"""Groups of channels, each drawn from a part of the memory of its own."""


def channels_of(size: int, depth: int) -> list[int]:
    """Channels behind each stage."""
    return [depth * multiple for multiple in CHANNEL_MULTIPLES[: stages(size)]]


def convolution(in_channels: int, out_channels: int, style: NetStyle) -> nn.Module:
    """A convolution that keeps the image's size."""
    return init_linear_(nn.Conv2d(in_channels, out_channels, KERNEL, padding="same"), style=style)


def phases() -> Float[Tensor, "25 36"]:
    """Which of 3 x 3 neighbours each of 5 x 5 taps falls on, for each of the 2 x 2 pixels that one becomes."""
    mix = torch.zeros(2, 3, KERNEL)
    for phase in range(2):
        for tap in range(KERNEL):
            mix[phase, (phase + tap - KERNEL // 2) // 2 + 1, tap] = 1
    return torch.einsum("pay,qbx->yxpqab", mix, mix).flatten(2).flatten(0, 1)


class DoublingConv(nn.Conv2d):
    """Every pixel becomes 2x2 of its kind, then a 5x5 convolution: computed as four of 3x3 on the small image.

    The five taps of a fine pixel fall on three coarse ones, so that 9 products do for 25. It is the same to rounding,
    with the same weights.
    """

    mix: Tensor

    def __init__(self, in_channels: int, out_channels: int, style: NetStyle) -> None:
        super().__init__(in_channels, out_channels, KERNEL, padding="same")
        init_linear_(self, style=style)
        self.register_buffer("mix", phases(), persistent=False)

    def forward(self, x: Float[Tensor, "N C S S"]) -> Float[Tensor, "N D S2 S2"]:
        """Convolve an image of twice the size."""
        taps = self.weight.flatten(2) @ self.mix  # [D, C, 36]: two rows, two columns of pixels, 3 x 3 neighbours each
        weight = taps.unflatten(2, (4, 3, 3)).transpose(1, 2).flatten(0, 1)
        bias = self.bias[:, None].expand(-1, 4).flatten()
        fine = F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, padding=1)
        return F.pixel_shuffle(fine, 2)


class PooledEncoder(nn.Sequential):
    """Convolution, the greatest of each 2x2, norm, activation, for every stage: [N, C, S, S] to [N, out_dim]."""

    @checked
    def __init__(
        self,
        shape: tuple[int, ...],
        depth: Annotated[Count, "unit of the convolutions' channels"],
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        size = check_image_size(shape)
        channels = [shape[0], *channels_of(size, depth)]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            layers += [convolution(a, b, style), nn.MaxPool2d(2), style.make_image_norm(b), style.make_act()]
        super().__init__(*layers, nn.Flatten())
        self.out_dim = channels[-1] * (size // 2 ** stages(size)) ** 2
        self.to(memory_format=torch.channels_last)


class BlockDecoder(ImageDecoder):
    """Two small maps, one of the memory and one of the latent, added and doubled in size by every stage.

    The memory's map is block-diagonal: groups of channels are drawn from parts of the memory. A latent without a memory
    draws alone.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        shape: tuple[int, ...],
        depth: Annotated[Count, "unit of the convolutions' channels"],
        units: Annotated[Count, "half the units of the hidden layer that reads the latent"],
        memory_dim: int = 0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__(shape)
        *inner, smallest = channels_of(self.size, depth)
        side = self.size // 2 ** stages(self.size)
        if memory_dim and (memory_dim % BLOCKS or smallest % BLOCKS):
            raise OptionError("depth", depth, f"and a memory of {memory_dim} numbers must make {BLOCKS} equal groups")
        self.memory_dim, self.map = memory_dim, (smallest, side, side)
        numbers = math.prod(self.map)
        self.from_memory = BlockLinear(memory_dim, numbers, BLOCKS, style=style) if memory_dim else None
        self.from_latent = nn.Sequential(
            DenseNormAct(feat_dim - memory_dim, 2 * units, style),
            init_linear_(nn.Linear(2 * units, numbers), style=style),
        )
        layers: list[nn.Module] = [style.make_image_norm(smallest), style.make_act()]
        for a, b in itertools.pairwise([smallest, *reversed(inner)]):
            layers += [DoublingConv(a, b, style), style.make_image_norm(b), style.make_act()]
        layers.append(DoublingConv((inner or [smallest])[0], shape[0], style))
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "... C S S"]:
        """Decode images in [0, 1]."""
        lead, feat = feat.shape[:-1], feat.reshape(-1, feat.shape[-1])
        latent, memory = feat.split([feat.shape[-1] - self.memory_dim, self.memory_dim], dim=-1)
        drawn = self.from_latent(latent)
        if self.from_memory is not None:
            drawn = drawn + self.from_memory(memory)
        images = self.layers(drawn.unflatten(1, self.map).contiguous(memory_format=torch.channels_last))
        return wide(images).sigmoid().unflatten(0, lead)
