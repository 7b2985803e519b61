"""Observations to embeddings: a CNN for pixels, a symlog MLP for state, side by side where both are there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from worldmodels.common.columns import PIXELS, cameras
from worldmodels.common.options import AtLeast, Count, checked
from worldmodels.common.precision import wide
from worldmodels.errors import UserError
from worldmodels.nets.augment import RandomShift
from worldmodels.nets.distributions import symlog
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle, init_linear_

ObservationSpec = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Observation key to (shape, dtype): ``pixels``, or another camera's, is uint8 (C, S, S), ``state`` is float32 (n,)."""

CHANNEL_MULTIPLES = (1, 2, 3, 4)
"""Channels of the stages, in units of ``depth``; each stage halves the image."""

SMALLEST = 4
"""Side at which halving ends, as in DreamerV3: poses are read from positions, which fewer cells would blur."""


def pixels_to_float(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to float in [0, 1]: the one place where frames are converted, for encoder and decoder alike."""
    return pixels.to(torch.get_default_dtype()) / 255


def check_image_size(shape: tuple[int, ...]) -> int:
    """The side of a square image of a multiple of 16 pixels, which four halvings need."""
    _, height, width = shape
    if height != width or height % 16 or height == 0:
        raise UserError(
            f"images must be square, their side a multiple of 16 pixels as 32 or 64 are, not {height}x{width}."
        )
    return height


def stages(size: int) -> int:
    """How often an image is halved: to a side of 4 to 7, at most four times."""
    return min(len(CHANNEL_MULTIPLES), int(math.log2(size / SMALLEST)))


class PixelEncoder(nn.Sequential):
    """Strided convolutions, as many as there are :func:`stages`: [N, C, S, S] to [N, out_dim].

    Each is normalised over the whole image by ``GroupNorm(1)``, in channels-last layout: with DreamerV3's RMSNorm over
    channels (``nets.norm=rms``), for which there is no fused CPU kernel, normalising took as long as the convolutions.
    """

    def __init__(self, shape: tuple[int, ...], depth: int, style: NetStyle = DEFAULT_STYLE) -> None:
        size = check_image_size(shape)
        channels = [shape[0]] + [depth * m for m in CHANNEL_MULTIPLES[: stages(size)]]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            layers += [
                init_linear_(nn.Conv2d(a, b, 4, stride=2, padding=1), style=style),
                style.make_image_norm(b),
                style.make_act(),
            ]
        super().__init__(*layers, nn.Flatten())
        self.out_dim = channels[-1] * (size // 2 ** stages(size)) ** 2
        self.to(memory_format=torch.channels_last)


class Encoder(nn.Module):
    """Embeds whatever the observations hold. Concatenated are cameras, each by a CNN of its own, then the state.

    ``embed_shape`` is the shape of one embedding, whose last axis a backbone reads.

    Args:
        observations: what there is.
    """

    @checked
    def __init__(
        self,
        observations: ObservationSpec,
        depth: Annotated[Count, "channels of the first convolution"],
        units: Annotated[Count, "units of a hidden layer for states"],
        layers: Annotated[int, AtLeast(0), "hidden layers for states"] = 3,
        random_shift: Annotated[
            int, AtLeast(0), "pixels by which images are moved at random while training; TD-MPC2 from pixels: 3"
        ] = 0,
        images: Annotated[Callable[..., nn.Module], "what reads a camera's images"] = PixelEncoder,
        squash: Annotated[bool, "states pass through symlog"] = True,
        shift_acting: Annotated[bool, "images are moved while acting too; TD-MPC2 from pixels"] = False,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.shift, self.squash = RandomShift(random_shift, shift_acting), squash
        self.observations = dict(observations)
        nets = {key: images(shape=observations[key][0], depth=depth, style=style) for key in cameras(observations)}
        self.pixels = nets.pop(PIXELS, None)
        self.cameras = nn.ModuleDict(nets)
        self.state = (
            MLP(math.prod(observations["state"][0]), units, layers, style=style) if "state" in observations else None
        )
        parts = [part for part in (self.pixels, *self.cameras.values(), self.state) if part is not None]
        if not parts:
            raise UserError(f"observations hold neither 'pixels' nor 'state' but {sorted(observations)}.")
        self.embed_shape = (sum(part.out_dim for part in parts),)

    def augment(self, obs: dict[str, Tensor], generator: Generator | None = None) -> dict[str, Tensor]:
        """Return observations with their images moved, while training or where that is asked for. Goals stay."""
        return {**obs, **{key: self.shift(obs[key], generator) for key in cameras(obs)}}

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "... E"]:
        """Embed observations with any leading axes: images [..., C, S, S] and ``state`` [..., n]."""
        first = {} if self.pixels is None else {PIXELS: self.pixels}
        parts = []
        for key, net in {**first, **self.cameras}.items():
            images = pixels_to_float(obs[key]).flatten(0, -4) - 0.5
            embed = net(images.contiguous(memory_format=torch.channels_last))
            parts.append(embed.unflatten(0, obs[key].shape[:-3]))
        if self.state is not None:
            state = wide(obs["state"])
            parts.append(self.state(symlog(state) if self.squash else state))
        return torch.cat([wide(part) for part in parts], dim=-1)
