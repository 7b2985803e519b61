"""Reconstruct the observations from the features: the objective of PlaNet and Dreamer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.nets.decoders import Decoder
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle
from worldmodels.objectives.base import Context, Objective


class Reconstruction(Objective):
    """Log-likelihood of every observation under unit-variance decoders (DreamerV3, eq. 3), named by observation key."""

    def __init__(
        self,
        feat_dim: int,
        observations: ObservationSpec,
        depth: int,
        units: int,
        layers: int = 3,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.decoder = Decoder(feat_dim, observations, depth, units, layers, style)

    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T E"], batch: dict[str, Tensor], context: Context
    ) -> dict[str, Float[Tensor, "B T"]]:
        """``pixels`` and ``state``, where observed."""
        return self.decoder.loss(rollout.feat, batch)
