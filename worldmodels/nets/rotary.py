"""Rotary position embeddings (RoPE, Su et al. 2021): positions turn queries and keys of an attention."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def rotary_angles(
    position: Int64[Tensor, "B T"], size: int
) -> tuple[Float[Tensor, "B 1 T c"], Float[Tensor, "B 1 T c"]]:
    """Cosine and sine of angles that grow with the position, one for each pair of a head's ``size`` channels (RoPE).

    Angles are taken in fp64: at position 10,000 an fp32 angle is off by a thousandth.
    """
    pairs = torch.arange(size // 2, device=position.device, dtype=torch.float64)
    angle = position[:, None, :, None] * 10_000.0 ** (-2 * pairs / size)
    return angle.cos().to(torch.get_default_dtype()), angle.sin().to(torch.get_default_dtype())


def apply_rotary(x: Float[Tensor, "B h T d"], cos: Float[Tensor, "B 1 T c"], sin: Float[Tensor, "B 1 T c"]) -> Tensor:
    """Turn pairs of channels, so that queries and keys see the distance of their positions alone (eq. 15).

    Channels c and c + d / 2 are a pair, where the paper has neighbours: the same in another order.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
