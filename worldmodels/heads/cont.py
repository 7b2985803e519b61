"""The continuation head: how likely an episode goes on."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common.options import checked
from worldmodels.heads.base import Head, Layers, Units
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle


class ContinueHead(Head):
    """Probability that an episode goes on after arriving in a state; a time limit does not count as an end."""

    @checked
    def __init__(
        self, feat_dim: int, action_dim: int, units: Units, layers: Layers = 1, style: NetStyle = DEFAULT_STYLE
    ) -> None:
        super().__init__()
        self.net = MLP(feat_dim, units, layers, 1, out_scale=0.0, style=style)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        """Return probabilities in [0, 1] for H steps from H + 1 states."""
        return self.net(feat[..., 1:, :]).float().squeeze(-1).sigmoid()

    def loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T"]:
        """Binary cross-entropy with 1 - is_terminal; in full however far ahead, as an end is its window's last row."""
        logits = self.net(rollout.feat).float().squeeze(-1)
        return F.binary_cross_entropy_with_logits(logits, (~batch["is_terminal"]).float(), reduction="none")
