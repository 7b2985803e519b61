"""Actor and critic learned in imagination: DreamerV3 (Hafner et al. 2023), section "Actor critic learning"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Rollout, State
from dynamics.goal import next_features
from planners.base import Model, require_window
from planners.learning.critics import CRITIC_GIVEN, Critic, ReturnScale
from planners.learning.learner import Gamma, Learner, StraightThrough, require_gradients
from planners.learning.policies import POLICY_GIVEN, ActionDistribution, PolicyNetwork, SampledPolicy
from planners.learning.returns import lambda_returns, reach_weights, recorded_returns
from planners.streams import RowStreams
from worldmodels.common.batch import goal_changed
from worldmodels.common.options import AtLeast, Between, Count, Fields, checked, inside
from worldmodels.errors import OptionError
from worldmodels.model import Trajectory
from worldmodels.nets.choices import Discrete
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, call_frozen


class ActorCritic(Learner):
    """Acts by its actor alone, which learned from futures that the model imagined from every state of the batch.

    Of a feature's numbers the last ``goal_dim`` are the goal's.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        discrete: Discrete,
        actor: Annotated[Mapping[str, Any], Fields(PolicyNetwork, POLICY_GIVEN), "the actor's network"],
        critic: Annotated[Mapping[str, Any], Fields(Critic, CRITIC_GIVEN), "the critic's network"],
        imag_horizon: Annotated[Count, "imagined decisions"] = 15,
        imag_last: Annotated[
            int, AtLeast(0), "starts of each window, its last; 0: all; backbones with large memories want fewer"
        ] = 0,
        gamma: Gamma = 1 - 1 / 333,
        lam: Annotated[float, Between(0, 1), "of the lambda-returns"] = 0.95,
        entropy: Annotated[float, AtLeast(0), "weight of the actor's entropy"] = 3e-4,
        gradient: Annotated[
            Literal["reinforce", "dynamics"], "of the actor; dynamics leads back through the model"
        ] = "reinforce",
        straight_through: StraightThrough = False,
        replay_gradient: Annotated[bool, "let the critic's loss on replay shape the latent"] = True,
        start_weight: Annotated[
            Literal["recorded", "predicted"], "whether an imagined future's start goes on: as recorded, or by the head"
        ] = "recorded",
        goal_dim: int = 0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__(action_dim, discrete)
        self.imag_horizon, self.imag_last, self.goal_dim = imag_horizon, imag_last, goal_dim
        self.gamma, self.lam, self.entropy = gamma, lam, entropy
        self.gradient, self.straight_through, self.replay_gradient = gradient, straight_through, replay_gradient
        self.start_weight = start_weight
        with inside("actor"):
            self.actor = PolicyNetwork(feat_dim, action_dim, discrete, style=style, **actor)
        with inside("critic"):
            self.critic = Critic(feat_dim, style=style, **critic)
        self.return_scale = ReturnScale()

    @property
    @override
    def horizons(self) -> dict[str, int]:
        return {"imag_horizon": self.imag_horizon}

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse windows of one step, which teach no critic, and models without a gradient where one is needed."""
        require_window(length, 2, "the critic learns from steps")
        if self.imag_last == 1:
            raise OptionError("imag_last", 1, "must be 0 or at least 2: the critic learns from steps")
        if self.imag_last > length:
            raise OptionError("imag_last", self.imag_last, f"must be at most data.length={length}, a window's steps")
        if self.gradient == "dynamics":
            gradient = "straight_through" if self.discrete and dynamics.gradient == "exact" else dynamics.gradient
            require_gradients(gradient, self.straight_through, "gradient=reinforce")

    @override
    def policy(self, feat: Float[Tensor, "N F"]) -> ActionDistribution:
        return self.actor(feat)

    @override
    def value(self, feat: Float[Tensor, "N S F"], streams: RowStreams) -> Float[Tensor, "N S"]:
        return self.critic(feat)

    def loss(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``actor`` and ``critic`` on imagined states, ``replay_critic`` on those of the batch.

        Each loss reaches its own network only, but for ``replay_critic`` with ``replay_gradient``.
        """
        last = self.imag_last or rollout.post.shape[1]
        start = model.dynamics.starts(rollout, last)
        imagined, raw = self._imagine(model, start)
        if self.start_weight == "predicted":
            alive = model.heads["cont"].learned(imagined.feat[:, 0])
        else:
            alive = ~batch["is_terminal"][:, -last:].flatten()
        feat = imagined.feat.detach()
        logits = self.critic.net(feat)  # once, for values and their loss
        if self.gradient == "dynamics":
            value = call_frozen(self.critic, imagined.feat)
        else:
            value = self.critic.two_hot.decode(logits.detach())
        returns = lambda_returns(imagined.reward, imagined.cont, value[:, 1:], self.gamma, self.lam)
        weight = reach_weights(alive, imagined.cont, self.gamma)
        return {
            "actor": weight * self._actor_loss(feat[:, :-1], raw, value[:, :-1], returns),
            "critic": weight * self.critic.loss(feat[:, :-1], returns, logits[:, :-1]),
            "replay_critic": self._replay_loss(rollout, batch, returns[:, 0].unflatten(0, (-1, last)).detach()),
        }

    def _imagine(self, model: Model, start: State) -> tuple[Trajectory, Tensor]:
        """Imagine futures of the actor's choice, with their raw actions. Gradients flow as the actor's loss needs."""
        policy, through_model = SampledPolicy(self.actor, self.action_dim), self.gradient == "dynamics"
        noise = torch.randn(len(start.feat), self.imag_horizon, self.action_dim, device=start.feat.device)
        with torch.set_grad_enabled(through_model and torch.is_grad_enabled()):
            imagined = self.imagine(model, start, policy, self.imag_horizon, noise=noise, frozen=through_model)
        return imagined, imagined.carry["raw"]

    def _actor_loss(self, feat: Tensor, raw: Tensor, value: Tensor, returns: Tensor) -> Tensor:
        """Unweighted, [N, H]: policy gradient with the critic as baseline, or minus the return itself.

        The return of the start alone, in place of those of all steps: later rewards are in it already, and would count
        once for every state before them. H times, as the mean over steps is taken.
        """
        actions = self.actor(feat)
        scale = self.return_scale(returns)
        if self.gradient == "dynamics":
            steps = returns.shape[1]
            gain = F.pad(steps * returns[:, :1] / scale, (0, steps - 1))
        else:
            gain = actions.log_prob(raw.detach()) * ((returns - value) / scale).detach()
        return -(gain + self.entropy * actions.entropy(raw.detach()))

    def _replay_loss(self, rollout: Rollout, batch: dict[str, Tensor], imagined: Tensor) -> Tensor:
        """The critic on recorded rewards, bootstrapped from ``imagined`` returns [B, K] of the last K states.

        An episode's last state has no successor and counts nothing. Where another goal is shown than before, what was
        imagined is for that one: the critic tells what the state is worth under the one before.
        """
        last = imagined.shape[1]
        rows = {key: value[:, -last:] for key, value in batch.items()}
        value = imagined[:, 1:]
        if self.goal_dim:
            with torch.no_grad():
                same = self.critic(next_features(rollout.post[:, -last:], self.goal_dim))
            value = torch.where(goal_changed(rows)[:, 1:], same, value)
        targets = recorded_returns(rows, value, self.gamma, self.lam)
        feat = rollout.feat[:, -last:][:, :-1]
        followed = rollout.weight[:, -last:][:, :-1] * (~rows["is_first"][:, 1:])
        return followed * self.critic.loss(feat if self.replay_gradient else feat.detach(), targets)

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return the actor's entropy and the critic's values on the batch, and the scale of returns."""
        with torch.no_grad():
            actions = self.actor(rollout.post)
            raw = actions.draw(torch.zeros_like(actions.mode()))
            return {
                "entropy": actions.entropy(raw),
                "value": self.critic(rollout.post),
                "return_scale": self.return_scale.scale(),
            }

    def after_step(self) -> None:
        """Move the critic's slow copy."""
        self.critic.after_step()
