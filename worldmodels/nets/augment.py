"""Augmentation of images while training, so that an encoder does not learn them by heart."""

from __future__ import annotations

import torch
from jaxtyping import Int64, Shaped
from torch import Generator, Tensor, nn


class RandomShift(nn.Module):
    """Moves every image by up to ``most`` pixels each way, repeating its edges (DrQ, Yarats 2021).

    While training, or with ``acting`` always.
    """

    def __init__(self, most: int, acting: bool = False) -> None:
        super().__init__()
        self.most, self.acting = most, acting

    def forward(
        self, images: Shaped[Tensor, "*B C S S"], generator: Generator | None = None
    ) -> Shaped[Tensor, "*B C S S"]:
        """Shift by whole pixels, each image by its own number."""
        if not self.most or not (self.training or self.acting):
            return images
        flat = images.flatten(0, -4)
        corner = torch.randint(2 * self.most + 1, (2, len(flat), 1), generator=generator, device=images.device)
        return self.moved(flat, corner).unflatten(0, images.shape[:-3])

    def moved(self, flat: Shaped[Tensor, "N C S S"], corner: Int64[Tensor, "2 N 1"]) -> Shaped[Tensor, "N C S S"]:
        """Cut images out of themselves with repeated edges, from these corners: row and column in 0 to 2 ``most``."""
        n, size = len(flat), flat.shape[-1]
        place = torch.arange(size, device=flat.device)
        row, column = (corner + place - self.most).clamp(0, size - 1)
        each = torch.arange(n, device=flat.device)[:, None, None]
        return flat.movedim(1, -1)[each, row[:, :, None], column[:, None, :]].movedim(-1, 1)
