"""A head that is neither reward nor continuation, for the tests of what further heads may do."""

from __future__ import annotations

from torch import nn

from worldmodels.heads.base import Head


class Effort(Head):
    """Learns the size of an action from the state that it led to."""

    trains_latent = False

    def __init__(self, feat_dim, action_dim, bias=0.0):
        super().__init__()
        self.net = nn.Linear(feat_dim, 1)
        nn.init.constant_(self.net.bias, bias)

    def forward(self, feat, action):
        return self.net(feat[..., 1:, :]).squeeze(-1)

    def loss(self, rollout, batch):
        return (self.net(rollout.feat).squeeze(-1) - batch["action"].norm(dim=-1)).square()
