"""Reconstruct the observations from the features: the objective of PlaNet and Dreamer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from dynamics.base import Rollout
from worldmodels.common.options import Count, checked
from worldmodels.nets.decoders import Decoder
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.objectives.base import Context, Objective


class Reconstruction(Objective):
    """Log-likelihood of every observation under unit-variance decoders (DreamerV3, eq. 3), named by observation key.

    Args:
        decoder: builds the decoder.
        every: of so many rows of a window one is decoded in an update, each as often as any other.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        observations: ObservationSpec,
        decoder: Callable[..., Decoder],
        every: Annotated[Count, "rows of a window, of which one is decoded in an update"] = 1,
    ) -> None:
        super().__init__()
        self.decoder, self.every = decoder(feat_dim=feat_dim, observations=observations), every

    @override
    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T *E"], batch: dict[str, Tensor], context: Context
    ) -> dict[str, Float[Tensor, "B R"]]:
        if self.every == 1:
            return self.decoder.loss(rollout.feat, batch)
        rows = self._rows(rollout.feat)
        return self.decoder.loss(rollout.feat[:, rows], {key: batch[key][:, rows] for key in self.decoder})

    def _rows(self, feat: Float[Tensor, "B T F"]) -> Int64[Tensor, " R"]:
        """Draw the rows of an update: one of every few, from any row on, around the window's end."""
        length = feat.shape[1]
        rows = torch.arange(0, length, self.every, device=feat.device)
        return (rows + torch.randint(length, (1,), device=feat.device)) % length
