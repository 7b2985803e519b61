"""Copies of modules with narrow weights, for acting: autocast would narrow them anew at every product."""

from __future__ import annotations

import copy

import torch
from torch import nn

from worldmodels.nets.ensembles import EnsembleLinear
from worldmodels.nets.layers import BlockLinear

NARROWED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, BlockLinear, EnsembleLinear)
"""Layers that autocast computes narrowly. Norms and memories stay as they are."""


class NarrowCopy:
    """A copy of a module that follows it when told, with weights of products in ``dtype``. Called under autocast."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.source, self.module = module, copy.deepcopy(module).requires_grad_(False).eval()
        for layer in self.module.modules():
            if isinstance(layer, NARROWED):
                layer.to(dtype)

    @torch.no_grad()
    def follow(self) -> None:
        """Take over the source's numbers."""
        for ours, theirs in (
            (self.module.parameters(), self.source.parameters()),
            (self.module.buffers(), self.source.buffers()),
        ):
            pairs = list(zip(ours, theirs, strict=True))
            if pairs:
                torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
