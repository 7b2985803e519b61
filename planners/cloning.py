"""Behaviour cloning: the recorded action of each latent, what offline planners have to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Rollout
from dynamics.goal import split_goal
from planners.base import Model, require_window
from planners.learning.hindsight import encode_goals, sample_future_rows
from planners.learning.learner import PolicyPlanner
from planners.learning.policies import POLICY_GIVEN, ActionDistribution, PolicyNetwork
from worldmodels.common.batch import mean_weights
from worldmodels.common.columns import LATER_ROWS
from worldmodels.common.options import Between, Fields, checked, inside
from worldmodels.nets.choices import Discrete
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle


class Cloning(PolicyPlanner):
    """A policy that is likely to do what was recorded. Where there are goals, on the way to states reached later.

    Of a feature's numbers the last ``goal_dim`` are the goal's.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        discrete: Discrete,
        policy: Annotated[Mapping[str, Any], Fields(PolicyNetwork, POLICY_GIVEN), "the policy's network"],
        goal_dim: int = 0,
        hindsight: Annotated[
            float, Between(0, 1), "share of goals that are replaced by states reached later, where there are goals"
        ] = 0.9,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__(action_dim, discrete)
        self.goal_dim, self.hindsight = goal_dim, hindsight
        with inside("policy"):
            self.actor = PolicyNetwork(feat_dim, action_dim, discrete, style=style, **policy)

    @property
    @override
    def reads_later(self) -> bool:
        return self.goal_dim > 0 and self.hindsight > 0

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse windows without a state and the action that leads on from it."""
        require_window(length, 2, "cloning learns from steps")

    @override
    def policy(self, feat: Float[Tensor, "... F"]) -> ActionDistribution:
        return self.actor(feat)

    def loss(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``clone`` [B, T - 1]: minus the log-density of the action that followed each latent.

        None across a reset.
        """
        feat = rollout.post[:, :-1].detach()
        if self.goal_dim:
            feat = self._relabeled(model, feat, batch)
        valid = ~batch["is_first"][:, 1:]
        return {"clone": -self.policy(feat).log_prob(batch["action"][:, 1:]) * mean_weights(valid)}

    def _relabeled(self, model: Model, feat: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Goals as frames that came later in the same episode, behind the window too where the batch tells of them."""
        b, t = feat.shape[:2]
        now = torch.arange(t, device=feat.device).expand(b, -1)
        goal = encode_goals(model, batch, sample_future_rows(batch["is_first"], now, t, batch.get(LATER_ROWS)))
        chosen = torch.rand(b, t, 1, device=feat.device) < self.hindsight
        latent, own = split_goal(feat, self.goal_dim)
        return torch.cat([latent, torch.where(chosen, goal, own)], dim=-1)
