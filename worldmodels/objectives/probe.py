"""A decoder that watches: what a latent holds that nothing else makes visible."""

from __future__ import annotations

from worldmodels.objectives.reconstruction import Reconstruction


class Probe(Reconstruction):
    """:class:`Reconstruction` from detached features: the decoder learns, the latent is not shaped by it."""

    trains_latent = False
