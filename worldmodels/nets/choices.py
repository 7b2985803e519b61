"""Actions made of choices: a one-hot for each, side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

Discrete = bool | tuple[int, ...]
"""Whether an action is one-hot, or the sizes of the one-hots that it is made of."""


def sizes_of(action_dim: int, discrete: Discrete) -> tuple[int, ...]:
    """Return the sizes of an action's one-hots, none where it is of numbers."""
    if isinstance(discrete, tuple):
        return discrete
    return (action_dim,) if discrete else ()


def each(
    function: Callable[..., Tensor], sizes: tuple[int, ...], *values: Float[Tensor, "... A"]
) -> Float[Tensor, "... A"]:
    """Apply a function to the numbers of every choice by themselves, of one tensor or of several alike."""
    if len(sizes) == 1:
        return function(*values)
    parts = zip(*(value.split(sizes, -1) for value in values), strict=True)
    return torch.cat([function(*part) for part in parts], dim=-1)


def likeliest(score: Float[Tensor, "... A"], sizes: tuple[int, ...]) -> Float[Tensor, "... A"]:
    """Return the one-hots of the greatest score of every choice."""
    return each(lambda part: one_hot(part.argmax(-1), part.shape[-1]).to(part.dtype), sizes, score)


def indices(action: Float[Tensor, "... A"], sizes: tuple[int, ...]) -> Int64[Tensor, "..."]:
    """Return what is chosen as an environment takes it: a number [...], or one a choice [..., K] of several."""
    if len(sizes) == 1:
        return action.argmax(-1)
    return torch.stack([part.argmax(-1) for part in action.split(sizes, -1)], dim=-1)
