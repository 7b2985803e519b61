"""A decoder that watches: what a latent holds that nothing else makes visible."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.objectives.reconstruction import Reconstruction


class Probe(Reconstruction):
    """:class:`Reconstruction` from detached features: the decoder learns, the latent is not shaped by it."""

    trains_latent = False

    def forward(
        self, rollout: Rollout, embed: Float[Tensor, "B T E"], batch: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "B T"]]:
        """``pixels`` and ``state``, where observed."""
        return super().forward(replace(rollout, feat=rollout.feat.detach()), embed, batch)
