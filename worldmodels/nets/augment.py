"""Augmentation of images while training, so that an encoder does not learn them by heart."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


class RandomShift(nn.Module):
    """While training, moves every image by up to ``most`` pixels each way, repeating its edges (DrQ, Yarats 2021)."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Shaped[Tensor, "*B C S S"]) -> Shaped[Tensor, "*B C S S"]:
        """Shift by whole pixels, each image by its own number."""
        if not self.training or not self.most:
            return images
        flat, size = images.flatten(0, -4), images.shape[-1]
        n, place = len(flat), torch.arange(size, device=images.device)
        corner = torch.randint(2 * self.most + 1, (2, n, 1), device=images.device)
        row, column = (corner + place - self.most).clamp(0, size - 1)
        each = torch.arange(n, device=images.device)[:, None, None]
        moved = flat.movedim(1, -1)[each, row[:, :, None], column[:, None, :]].movedim(-1, 1)
        return moved.unflatten(0, images.shape[:-3])
