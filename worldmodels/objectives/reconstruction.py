"""Reconstruct the observations from the features: the objective of PlaNet and Dreamer."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common.options import AtLeast, Count, checked
from worldmodels.nets.decoders import Decoder
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.objectives.base import Objective


class Reconstruction(Objective):
    """Log-likelihood of every observation under unit-variance decoders (DreamerV3, eq. 3), named by observation key."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        observations: ObservationSpec,
        depth: Annotated[Count, "channels of the last convolution"],
        units: Annotated[Count, "units of a hidden layer for states"],
        layers: Annotated[int, AtLeast(0), "hidden layers for states"] = 3,
    ) -> None:
        super().__init__()
        self.decoder = Decoder(feat_dim, observations, depth, units, layers)

    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T E"], batch: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "B T"]]:
        """``pixels`` and ``state``, where observed."""
        return self.decoder.loss(rollout.feat, batch)
