"""Gradient clipping and the averaging of weights. Optimisers come from libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from pytorch_optimizer.optimizer.agc import agc
from torch import Tensor, nn

from worldmodels.common.options import Between, MoreThan, checked


class NormClip:
    """Scale all gradients down together where their total norm exceeds ``max_norm``."""

    @checked
    def __init__(self, max_norm: Annotated[float, MoreThan(0), "norm of all gradients together"]) -> None:
        self.max_norm = max_norm

    def __call__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clip all gradients in place."""
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)


class AdaptiveClip:
    """Bound each unit's gradient by ``factor`` times its weights' norm (Brock et al. 2021). DreamerV3 uses 0.3."""

    @checked
    def __init__(
        self, factor: Annotated[float, MoreThan(0), "norm of a unit's gradient, in norms of its weights"] = 0.3
    ) -> None:
        self.factor = factor

    @torch.no_grad()
    def __call__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clip each unit's gradient in place."""
        for parameter in parameters:
            parameter.grad.copy_(agc(parameter, parameter.grad, agc_clip_val=self.factor))


@checked
def moving_average(
    ema_decay: Annotated[float, Between(0, 1, "high")],
) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Make an exponential moving average that keeps ``ema_decay`` of itself, less while it is young.

    After n updates that is (1 + n) / (10 + n). All weights at once, for
    ``torch.optim.swa_utils.AveragedModel(multi_avg_fn=…)``.
    """

    def average(averaged: list[Tensor], newest: list[Tensor], updates: Tensor) -> None:
        done = int(updates)
        kept = min(ema_decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(averaged, newest, 1 - kept)

    return average
