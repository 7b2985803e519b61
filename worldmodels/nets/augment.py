"""Augmentation of images while training, so that an encoder does not learn them by heart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RandomShift(nn.Module):
    """While training, moves every image by up to ``most`` pixels each way, repeating its edges (DrQ, Yarats 2021)."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, images: Float[Tensor, "N C S S"]) -> Float[Tensor, "N C S S"]:
        """Shift by whole pixels, each image by its own number."""
        if not self.training:
            return images
        n, _, size, _ = images.shape
        padded = F.pad(images, [self.most] * 4, mode="replicate")
        place = torch.arange(size, device=images.device)
        corner = torch.randint(2 * self.most + 1, (2, n, 1), device=images.device)
        row, column = corner + place
        each = torch.arange(n, device=images.device)[:, None, None]
        return padded.movedim(1, -1)[each, row[:, :, None], column[:, None, :]].movedim(-1, 1)
