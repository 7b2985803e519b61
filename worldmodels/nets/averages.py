"""Moving averages of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from worldmodels.common.options import Between, checked


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
