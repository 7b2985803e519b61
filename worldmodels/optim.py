"""Gradient clipping by the norm of everything or by the norm of each unit; optimisers come from libraries."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pytorch_optimizer.optimizer.agc import agc
from torch import nn


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
