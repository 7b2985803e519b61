"""Gradient clipping and the averaging of weights; optimisers come from libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from pytorch_optimizer.optimizer.agc import agc
from torch import Tensor, nn

from worldmodels.errors import UserError


class NormClip:
    """Scale all gradients down together where their total norm exceeds ``max_norm``."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def __call__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clip in place."""
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)


class AdaptiveClip:
    """Bound each unit's gradient by ``factor`` times its weights' norm (Brock et al. 2021; DreamerV3 uses 0.3)."""

    def __init__(self, factor: float = 0.3) -> None:
        self.factor = factor

    @torch.no_grad()
    def __call__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clip in place."""
        for parameter in parameters:
            parameter.grad.copy_(agc(parameter, parameter.grad, agc_clip_val=self.factor))


def moving_average(share: int | float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Exponential moving average that keeps ``share`` of itself, less while it is young: (1 + n) / (10 + n) after n.

    All weights at once, for ``torch.optim.swa_utils.AveragedModel(multi_avg_fn=…)``. Raises :class:`UserError` unless
    ``share`` lies in [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(f"optimizer.average={share} must lie in [0, 1).")

    def average(averaged: list[Tensor], newest: list[Tensor], updates: Tensor) -> None:
        done = int(updates)
        kept = min(share, (1 + done) / (10 + done))
        torch._foreach_lerp_(averaged, newest, 1 - kept)

    return average
