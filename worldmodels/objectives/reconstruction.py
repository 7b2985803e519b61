"""Reconstruct the observations from the features: the objective of PlaNet and Dreamer."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Rollout
from worldmodels.nets.decoders import Decoder
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.objectives.base import Context, Objective


class Reconstruction(Objective):
    """Log-likelihood of every observation under unit-variance decoders (DreamerV3, eq. 3), named by observation key.

    Args:
        decoder: builds the decoder.
    """

    def __init__(self, feat_dim: int, observations: ObservationSpec, decoder: Callable[..., Decoder]) -> None:
        super().__init__()
        self.decoder = decoder(feat_dim=feat_dim, observations=observations)

    @override
    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T *E"], batch: dict[str, Tensor], context: Context
    ) -> dict[str, Float[Tensor, "B T"]]:
        return self.decoder.loss(rollout.feat, batch)
