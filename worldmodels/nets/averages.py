"""Moving averages of weights."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from torch import Tensor, nn

from worldmodels.common.options import Between, checked


class WeightAverage(nn.Module):
    """A copy of a module whose weights are an exponential moving average of its weights.

    It keeps ``ema_decay`` of itself at each update, less while it is young: (1 + n) / (10 + n) after n updates. Where
    nothing is kept, the copy shares the module's weights. Buffers are the newest. No update waits for the device.
    """

    n_averaged: Tensor

    @checked
    def __init__(self, source: nn.Module, ema_decay: Annotated[float, Between(0, 1, "high")]) -> None:
        super().__init__()
        self.ema_decay = ema_decay
        self.module = copy.deepcopy(source, {} if ema_decay else {id(weight): weight for weight in source.parameters()})
        if ema_decay:
            self.module.requires_grad_(False)
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))
        self.done = 0
        """The same number where the host can read it."""
        self.register_load_state_dict_post_hook(WeightAverage._count)

    def _count(self, _: object) -> None:
        self.done = int(self.n_averaged)

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move towards the newest weights of the module that this is a copy of. The first update takes them."""
        if self.ema_decay:
            kept = min(self.ema_decay, (1 + self.done) / (10 + self.done)) if self.done else 0.0
            torch._foreach_lerp_(list(self.module.parameters()), list(source.parameters()), 1 - kept)
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(source.buffers()))
        self.n_averaged += 1
        self.done += 1
