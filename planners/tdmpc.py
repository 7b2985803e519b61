"""Temporal-difference learning of an ensemble of Q functions and a policy: what TD-MPC2 (Hansen et al. 2024) learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Dynamics, Rollout
from dynamics.goal import next_features
from planners.base import Model, require_window
from planners.learning.critics import ValueScale, follow, slow_copy
from planners.learning.learner import Gamma, Learner, require_discount
from planners.learning.policies import POLICY_GIVEN, ActionDistribution, PolicyNetwork
from planners.streams import RowStreams
from worldmodels.common.batch import mean_weights
from worldmodels.common.options import AtLeast, Between, Count, Fields, MoreThan, checked, inside
from worldmodels.errors import OptionError
from worldmodels.heads.base import Layers, NumBins, Units
from worldmodels.nets.choices import Discrete
from worldmodels.nets.distributions import SymlogTwoHot
from worldmodels.nets.ensembles import EnsembleMLP
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, call_frozen

ALL = slice(None)


class QEnsemble(nn.Module):
    """``num_q`` functions of a state and an action, as two-hot over bins that are even under symlog.

    Dropout follows their first layer's weights. They begin at zero and differ by their hidden layers.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: Units,
        layers: Layers,
        num_q: Annotated[Count, "members of the ensemble"],
        num_bins: NumBins,
        symlog_limit: Annotated[float, MoreThan(0), "of the bins, under symlog"],
        dropout: Annotated[float, Between(0, 1, "high"), "share of the first layer's outputs left out"],
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.two_hot = SymlogTwoHot(num_bins, symlog_limit)
        self.nets = EnsembleMLP(num_q, feat_dim + action_dim, units, layers, num_bins, dropout, style)

    def forward(
        self, feat: Float[Tensor, "... F"], action: Float[Tensor, "... A"], members: slice | Tensor = ALL
    ) -> Float[Tensor, "Q ... K"]:
        """Return logits of some members, which a slice or a tensor of indices [Q] names."""
        return self.nets(torch.cat([feat, action], dim=-1), members)

    def some(self, count: int) -> Int64[Tensor, "Q"]:
        """Members drawn without replacement."""
        return torch.randperm(len(self), device=self.nets.out.bias.device)[:count]

    def __len__(self) -> int:
        return self.nets.members


class TDLearner(Learner):
    """Learns Q from grounded latents (TD-MPC2, eq. 3) and a policy that maximises it (eq. 4). Acts by the policy.

    Q is trained on the rollout's own features, open-loop where the backbone makes them so, and shapes the latent.
    Targets read the grounded ones. The policy sees detached features and moves in a step of its own, after Q's. Of a
    feature's numbers the last ``goal_dim`` are the goal's.
    """

    follow_up_losses = ("policy",)

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        discrete: Discrete,
        policy: Annotated[Mapping[str, Any], Fields(PolicyNetwork, POLICY_GIVEN), "the policy's network, under tanh"],
        q: Annotated[Mapping[str, Any], Fields(QEnsemble, ("feat_dim", "action_dim", "style")), "the Q functions"],
        gamma: Gamma | Literal["auto"] = 0.99,
        target_rate: Annotated[float, Between(0, 1, "low"), "share of the way that targets move at each update"] = 0.01,
        num_q_sampled: Annotated[
            Count, "members that a value is taken from: their least in targets, their mean elsewhere"
        ] = 2,
        entropy: Annotated[float, AtLeast(0), "weight of the policy's entropy, times the numbers of an action"] = 1e-4,
        goal_dim: int = 0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__(action_dim, discrete)
        require_discount(gamma)
        self.gamma, self.target_rate, self.entropy = gamma, target_rate, entropy
        self.num_q_sampled, self.goal_dim = num_q_sampled, goal_dim
        with inside("policy"):
            self.actor = PolicyNetwork(feat_dim, action_dim, discrete, squash=True, style=style, **policy)
        with inside("q"):
            self.q = QEnsemble(feat_dim, action_dim, style=style, **q)
        if num_q_sampled > len(self.q):
            raise OptionError("num_q_sampled", num_q_sampled, f"must be at most q.num_q={len(self.q)}")
        self.target = slow_copy(self.q)
        self.target.nets.dropout = nn.Identity()  # targets are without, whatever else is learning
        self.q_scale = ValueScale()

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse windows without a state and the action that leads on from it, which Q is of."""
        require_window(length, 2, "Q functions learn from steps")

    @override
    def policy(self, feat: Float[Tensor, "... F"]) -> ActionDistribution:
        return self.actor(feat)

    def value(self, feat: Float[Tensor, "N S F"], streams: RowStreams) -> Float[Tensor, "N S"]:
        """Return the mean of random members, each row's own, at an action of the policy.

        Only members drawn are computed, without asking which they are.
        """
        members, count = len(self.q), feat.shape[1]
        noise = streams.normal(members + count * self.action_dim)
        chosen = noise[:, :members].topk(self.num_q_sampled, dim=1).indices
        action = self.policy(feat).choose(noise[:, members:].unflatten(1, (count, self.action_dim)))
        given = torch.cat([feat, action], dim=-1).repeat_interleave(self.num_q_sampled, dim=0)
        logits = self.q.nets.each(given, chosen.flatten())
        return self.q.two_hot.decode(logits).unflatten(0, chosen.shape).mean(1)

    def loss(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``q``, [B, T - 1]."""
        return {"q": self._q_loss(rollout, batch)}

    def follow_up(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``policy``, [B, T], which reads Q as its own step has left it."""
        return {"policy": self._policy_loss(rollout, batch)}

    @override
    def follow_up_parameters(self) -> Iterable[nn.Parameter]:
        return self.actor.parameters()

    def _q_loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Tensor:
        """Return the cross-entropy of every member with ``r + gamma min Q(z', pi(z'))``. Nothing leads into a reset."""
        with torch.no_grad():
            after = next_features(rollout.post, self.goal_dim)
            members = self.q.some(self.num_q_sampled)
            action = self.policy(after).choose(torch.randn_like(batch["action"][:, 1:]))
            bootstrap = self.target.two_hot.decode(self.target(after, action, members)).amin(0)
            going = (~batch["is_terminal"][:, 1:]).to(bootstrap.dtype)
            target = batch["reward"][:, 1:] + self.gamma * going * bootstrap
        logits = self.q(rollout.feat[:, :-1], batch["action"][:, 1:])
        valid = ~batch["is_first"][:, 1:]
        loss = self.q.two_hot.loss(logits, target.expand(logits.shape[:-1])).mean(0)
        return rollout.weight[:, :-1] * torch.where(valid, loss, 0.0) * mean_weights(valid)

    def _policy_loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Tensor:
        """Return minus Q, in units of its range in windows' first rows, and minus the entropy of raw actions."""
        feat = rollout.feat.detach()
        actions = self.policy(feat)
        raw = actions.draw(torch.randn_like(batch["action"]))
        logits = call_frozen(self.q, feat, actions.action(raw), self.q.some(self.num_q_sampled))
        q = self.q.two_hot.decode(logits).mean(0)
        gain = q / self.q_scale(q[:, 0]) + self.entropy * self.action_dim * actions.raw_entropy(raw)
        return -gain * rollout.weight

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return values of the policy's mode, and their range."""
        with torch.no_grad():
            logits = self.q(rollout.post, self.policy(rollout.post).mode(), slice(1))[0]
            return {"value": self.q.two_hot.decode(logits), "value_range": self.q_scale.scale()}

    def after_step(self) -> None:
        """Move the targets towards the Q functions."""
        follow(self.target, self.q, self.target_rate)
