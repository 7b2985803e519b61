"""Features back to observations, and the reconstruction losses: summed over an observation, as DreamerV3 does."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from worldmodels.common.columns import cameras
from worldmodels.common.options import AtLeast, Count, checked
from worldmodels.common.precision import wide
from worldmodels.nets.distributions import symexp, symlog
from worldmodels.nets.encoders import CHANNEL_MULTIPLES, ObservationSpec, check_image_size, pixels_to_float, stages
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, DenseNormAct, NetStyle, init_linear_

PUBLISHED_NUMBERS = 3 * 64 * 64
"""Numbers of an image in DreamerV3, whose loss is a plain sum."""


class ImageDecoder(nn.Module, ABC):
    """Features to images in [0, 1], and the loss of what they show."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = check_image_size(shape)
        self.loss_weight = PUBLISHED_NUMBERS / math.prod(shape)

    @abstractmethod
    def forward(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "... C S S"]:
        """Decode images in [0, 1], at least fp32."""

    def loss(self, feat: Float[Tensor, "... F"], pixels: Tensor) -> Float[Tensor, "..."]:
        """Squared error summed over the image, times what makes images of any size weigh as published ones do."""
        return self.loss_weight * (self(feat) - pixels_to_float(pixels)).square().sum((-1, -2, -3))


class PixelDecoder(ImageDecoder):
    """Mirror of the strided encoder: transposed convolutions."""

    def __init__(self, feat_dim: int, shape: tuple[int, ...], depth: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__(shape)
        halvings = stages(self.size)
        side = self.size // 2**halvings
        channels = [depth * m for m in reversed(CHANNEL_MULTIPLES[:halvings])] + [shape[0]]
        self.start = DenseNormAct(feat_dim, channels[0] * side**2, style)
        self.unflatten = nn.Unflatten(1, (channels[0], side, side))
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            layers += [
                init_linear_(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), style=style),
                style.make_image_norm(b),
                style.make_act(),
            ]
        self.layers = nn.Sequential(*layers[:-2]).to(memory_format=torch.channels_last)

    def forward(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "... C S S"]:
        """Decode images in [0, 1]. The sigmoid keeps a clip from ever showing what a camera could not."""
        lead = feat.shape[:-1]
        start = self.unflatten(self.start(feat.reshape(-1, feat.shape[-1])))
        images = self.layers(start.contiguous(memory_format=torch.channels_last))
        return wide(images).sigmoid().unflatten(0, lead)


class StateDecoder(nn.Module):
    """[..., F] to a state vector, predicted in symlog space (DreamerV3, eq. 9)."""

    def __init__(
        self, feat_dim: int, shape: tuple[int, ...], units: int, layers: int, style: NetStyle = DEFAULT_STYLE
    ) -> None:
        super().__init__()
        self.net = MLP(feat_dim, units, layers, math.prod(shape), style=style)

    def forward(self, feat: Float[Tensor, "... F"]) -> Float[Tensor, "... n"]:
        """Decode the state in the environment's units."""
        return symexp(wide(self.net(feat)))

    def loss(self, feat: Float[Tensor, "... F"], state: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
        """Squared symlog error summed over the vector."""
        return (wide(self.net(feat)) - symlog(wide(state))).square().sum(-1)


class Decoder(nn.ModuleDict):
    """One decoder for each key of the observations. A goal behind ``feat_dim`` numbers of a feature is not read."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        observations: ObservationSpec,
        depth: Annotated[Count, "channels of the last convolution"],
        units: Annotated[Count, "units of a hidden layer for states"],
        layers: Annotated[int, AtLeast(0), "hidden layers for states"] = 3,
        images: Annotated[Callable[..., ImageDecoder], "what draws a camera's images"] = PixelDecoder,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.feat_dim = feat_dim
        for key in cameras(observations):
            self[key] = images(feat_dim=feat_dim, shape=observations[key][0], depth=depth, style=style)
        if "state" in observations:
            self["state"] = StateDecoder(feat_dim, observations["state"][0], units, layers, style)

    @override
    def forward(self, feat: Float[Tensor, "... F"]) -> dict[str, Tensor]:
        return {key: decoder(feat[..., : self.feat_dim]) for key, decoder in self.items()}

    def loss(self, feat: Float[Tensor, "B T F"], obs: dict[str, Tensor]) -> dict[str, Float[Tensor, "B T"]]:
        """Return the reconstruction loss of every key."""
        return {key: decoder.loss(feat[..., : self.feat_dim], obs[key]) for key, decoder in self.items()}
