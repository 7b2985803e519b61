"""Images as TD-MPC2's code reads them: four convolutions without padding or norms, for 64x64 pixels."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from worldmodels.common.options import Count, checked
from worldmodels.errors import UserError
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle

SIZE = 64
KERNELS = ((7, 2), (5, 2), (3, 2), (3, 1))
"""Side and stride of each convolution."""


class ValidEncoder(nn.Sequential):
    """Convolutions with ReLU between them and PyTorch's first weights: [N, C, 64, 64] to [N, 16 depth]."""

    @checked
    def __init__(
        self,
        shape: tuple[int, ...],
        depth: Annotated[Count, "channels of every convolution"],
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        if shape[1:] != (SIZE, SIZE):
            raise UserError(f"encoder=valid reads images of {SIZE}x{SIZE} pixels, not {shape[1]}x{shape[2]}: env.size.")
        layers: list[nn.Module] = []
        channels = shape[0]
        for side, stride in KERNELS:
            layers += [nn.Conv2d(channels, depth, side, stride), nn.ReLU()]
            channels = depth
        super().__init__(*layers[:-1], nn.Flatten())
        with torch.no_grad():
            self.out_dim = self(torch.zeros(1, *shape)).shape[1]
        self.to(memory_format=torch.channels_last)
