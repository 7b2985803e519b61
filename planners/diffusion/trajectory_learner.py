"""Learner of diffusion planners: a model of trajectories, and a value and inverse dynamics where configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dynamics.base import Rollout
from dynamics.goal import next_features, split_goal
from planners.base import LearnedModel
from planners.diffusion.conditioning import Label, Window
from planners.diffusion.trajectory_model import Normalizer, TrajectoryModel
from planners.learning.critics import CRITIC_GIVEN, Critic
from planners.learning.hindsight import encode_goals, sample_future_rows
from planners.learning.learner import Gamma
from planners.learning.returns import recorded_returns
from worldmodels.common.batch import mean_weights
from worldmodels.common.columns import LATER_ROWS
from worldmodels.common.options import Between, Fields, checked
from worldmodels.common.precision import wide
from worldmodels.errors import OptionError
from worldmodels.heads.base import Layers, Units
from worldmodels.nets.averages import WeightAverage
from worldmodels.nets.choices import Discrete, each, sizes_of
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle


def window_slots(rows: int, length: int, every_offset: bool = False) -> tuple[int, int]:
    """How many trajectories of ``length`` steps a window holds, and in how many rows the first of them may begin.

    End to end, or one at every row.
    """
    if every_offset:
        return rows - length, 1
    count = (rows - 1) // length
    return count, rows - count * length


@dataclass(frozen=True)
class Hidden:
    """The hidden layers of a network."""

    units: Units
    layers: Layers


class TrajectoryLearner(nn.Module):
    """Learns to denoise L steps of each training window, on posteriors that no gradient leads back from.

    Of a feature's numbers the last ``goal_dim`` are the goal's latent.
    """

    identity: ClassVar[tuple[str, ...]] = ("labels", "inverse", "trajectories.latents", "trajectories.actions")
    """See :class:`planners.base.Planner`."""

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        discrete: Discrete,
        trajectories: Annotated[Callable[..., TrajectoryModel], "the diffusion model"],
        goal_dim: int = 0,
        labels: Annotated[
            Mapping[str, Callable[..., Label]] | None, "what trajectories are labelled with, and plans asked for"
        ] = None,
        goal_share: Annotated[float, Between(0, 1), "of trajectories with a later latent given, as a goal"] = 0.9,
        gamma: Gamma = 0.99,
        critic: Annotated[
            Mapping[str, Any] | None, Fields(Critic, CRITIC_GIVEN), "a value of the data's own policy; null: none"
        ] = None,
        inverse: Annotated[Mapping[str, Any] | None, Fields(Hidden), "actions from two latents; null: none"] = None,
        forward_model: Annotated[
            Mapping[str, Any] | None, Fields(Hidden), "the latent after an action, to tell plans that jump; null: none"
        ] = None,
        every_offset: Annotated[
            bool, "learn from a trajectory at every row of a window; false: end to end, from a random row on"
        ] = False,
        ema_decay: Annotated[
            float, Between(0, 1, "high"), "share of the averaged denoiser, which plans, that an update keeps"
        ] = 0.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.every_offset = every_offset
        self.sizes = sizes_of(action_dim, discrete)
        self.discrete, self.goal_dim, self.goal_share, self.gamma = discrete, goal_dim, goal_share, gamma
        self.labels = nn.ModuleDict({name: build(goal_dim=goal_dim) for name, build in (labels or {}).items()})
        earned = [name for name, label in self.labels.items() if label.reads_reward]
        if goal_dim and earned:
            raise OptionError(
                "labels",
                ", ".join(earned),
                "read what was earned, which depends on the goal that was shown, and trajectories do not say which: "
                "where goals are shown use planner=diffusion_goals or planner=cfgrl_goals, or leave env.goal out",
            )
        latent = feat_dim - goal_dim
        widths = {name: label.width for name, label in self.labels.items()}
        self.trajectories = trajectories(feat_dim=latent, action_dim=action_dim, labels=widths)
        self.average = WeightAverage(self.trajectories, ema_decay) if ema_decay else None
        self.critic = Critic(feat_dim, style=style, **critic) if critic else None
        self._compares = any(label.reads_advantage for label in self.labels.values())
        if self._compares and critic is None:
            raise OptionError("critic", None, "must have its units: a label compares with a value")
        if inverse is None and not self.trajectories.actions:
            raise OptionError("inverse", None, "must have its units: trajectories.actions=false leaves no actions else")
        self.inverse_model = None if inverse is None else MLP(2 * latent, out_dim=action_dim, style=style, **inverse)
        self.forward_model = None
        if forward_model is not None:
            self.forward_model = MLP(latent + action_dim, out_dim=latent, out_scale=0.0, style=style, **forward_model)
            self.step_errors = Normalizer(latent)
            self.arrival_errors = Normalizer(latent) if goal_dim else None

    @property
    def sampled(self) -> TrajectoryModel:
        """The model that plans are sampled from: the averaged one where there is one."""
        return self.trajectories if self.average is None else self.average.module

    @property
    def reads_later(self) -> bool:
        """Whether goals are conditions, which may lie anywhere in the rest of the episode."""
        return self.goal_dim > 0 and any(label.reads_goal for label in self.labels.values())

    def loss(self, model: LearnedModel, rollout: Rollout, batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
        """``denoise`` [B K, L] on the K windows of L steps in each row, and what else is learned.

        ``inverse`` and ``forward`` are [B K, L - 1] on the same windows, ``critic`` is [B, T - 1].
        """
        window, ends = self._windows(model, rollout, batch, length)
        x = self.concat(window.feat, window.action)
        given = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        given[:, 0] = True
        if window.goal is not None:
            x, given = self._with_goal(x, given, window.goal, ends)
        if self.training:
            self.trajectories.normalizer.follow(x, window.valid)
        labels = {name: label.encode_data(window) for name, label in self.labels.items()}
        counts = mean_weights(window.valid)[:, None]
        losses = {"denoise": counts * self.trajectories.loss(x, given, labels)}
        if self.critic is not None:
            losses["critic"] = self._critic_loss(rollout, batch)
        if self.inverse_model is not None:
            losses["inverse"] = counts * self._inverse_loss(window)
        if self.forward_model is not None:
            losses["forward"] = counts * self._forward_loss(window, ends)
        return losses

    def _windows(
        self, model: LearnedModel, rollout: Rollout, batch: dict[str, Tensor], length: int
    ) -> tuple[Window, Int64[Tensor, " N"]]:
        """All that a batch holds, N = B K: windows of L steps at every row, or end to end from a random row on.

        And at which later step of each a goal is seen.
        """
        rows, post = rollout.post.shape[1], rollout.post.detach()
        count, offsets = window_slots(rows, length, self.every_offset)
        begins = torch.randint(offsets, (1,), device=post.device)
        begins = begins + (1 if self.every_offset else length) * torch.arange(count, device=post.device)
        steps = begins[:, None] + torch.arange(length, device=post.device)
        goal, ends = None, torch.ones(len(post) * count, dtype=torch.int64, device=post.device)
        if self.goal_dim:
            now = begins.expand(len(post), -1)
            reach = (rows, batch.get(LATER_ROWS)) if self.reads_later else (max(1, length - 1), None)
            chosen = sample_future_rows(batch["is_first"], now, *reach)
            ends, goal = (chosen - now).flatten(), encode_goals(model, batch, chosen).flatten(0, 1)
        window = Window(
            split_goal(post[:, steps].flatten(0, 1), self.goal_dim)[0],
            batch["action"][:, steps + 1].flatten(0, 1),
            batch["reward"][:, steps + 1].flatten(0, 1),
            self._advantage(post, batch)[:, begins].flatten() if self._compares else None,
            batch["skill"][:, begins].flatten() if "skill" in batch else None,
            goal,
            ~batch["is_first"][:, steps + 1].any(2).flatten(),
        )
        return window, ends

    def _with_goal(
        self, x: Tensor, given: Tensor, goal: Float[Tensor, "B G"], ends: Int64[Tensor, " B"]
    ) -> tuple[Tensor, Tensor]:
        """Trajectories whose latent at ``ends`` is given, as it is seen as a goal, in ``goal_share`` of the rows."""
        place = torch.arange(x.shape[1], device=x.device) == ends[:, None]
        place &= torch.rand(len(x), 1, device=x.device) < self.goal_share
        seen = torch.cat([goal, goal.new_zeros(len(goal), x.shape[-1] - self.goal_dim)], dim=-1)[:, None]
        latent = torch.arange(x.shape[-1], device=x.device) < self.goal_dim
        return torch.where(place[..., None] & latent, seen, x), given | place

    def _advantage(self, feat: Tensor, batch: dict[str, Tensor]) -> Float[Tensor, "B T1"]:
        """Return of what follows each step, bootstrapped at the window's end, over the value of its state."""
        with torch.no_grad():
            after = self.critic(next_features(feat, self.goal_dim))
            return recorded_returns(batch, after, self.gamma, 1.0) - self.critic(feat[:, :-1])

    def _critic_loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T1"]:
        """The critic on lambda-returns of what was recorded: the value of the data's own policy."""
        feat = rollout.post.detach()
        with torch.no_grad():
            after = self.critic.two_hot.decode(self.critic.slow(next_features(feat, self.goal_dim)))
            target = recorded_returns(batch, after, self.gamma, 0.95)
        return self.critic.loss(feat[:, :-1], target) * ~batch["is_first"][:, 1:]

    def _inverse_loss(self, window: Window) -> Float[Tensor, "B L1"]:
        """Squared error, or cross-entropy, of the action between each two latents."""
        output = self.inverse_dynamics(window.feat)
        if self.discrete:
            return -(window.action[:, :-1] * each(lambda part: part.log_softmax(-1), self.sizes, output)).sum(-1)
        return (output.tanh() - window.action[:, :-1]).square().sum(-1)

    def _forward_loss(self, window: Window, ends: Int64[Tensor, " B"]) -> Float[Tensor, "B L1"]:
        """Squared error of each next latent, in deviations.

        What recorded steps err by is followed on the way, and what they err by where a goal is seen at their end.
        """
        predicted = self.predict_next(window.feat[:, :-1], window.action[:, :-1])
        errors = predicted - window.feat[:, 1:]
        if self.training:
            self.step_errors.follow(errors, window.valid)
            if window.goal is not None:
                arriving = predicted[
                    torch.arange(len(ends), device=ends.device), ends.clamp(max=predicted.shape[1]) - 1
                ]
                self.arrival_errors.follow(
                    (arriving - window.goal)[:, None], window.valid & (ends <= predicted.shape[1])
                )
        return (errors / self.trajectories.latent_std()).square().mean(-1)

    def predict_next(
        self, latents: Float[Tensor, "... L F"], actions: Float[Tensor, "... L A"]
    ) -> Float[Tensor, "... L F"]:
        """The latent that each action leads to."""
        std = self.trajectories.latent_std()
        known = (latents - self.trajectories.latent_mean()) / std
        moved = wide(self.forward_model(torch.cat([known, actions], dim=-1)))
        return latents + std * moved

    def transition_error(
        self, predicted: Float[Tensor, "... F"], shown: Float[Tensor, "... F"]
    ) -> Float[Tensor, "..."]:
        """Squared distance of two latents, in that of recorded steps, on which it averages 1 or less.

        No number counts for more than if it were foreseen to 5 % of its deviation: plans are not denoised more exactly.
        """
        return self._normalized_error(predicted - shown, self.step_errors)

    def arrival_error(self, predicted: Float[Tensor, "... F"], goal: Float[Tensor, "... F"]) -> Float[Tensor, "..."]:
        """The same of a latent and a goal, in what recorded arrivals err by: a goal shows less than a state does."""
        return self._normalized_error(predicted - goal, self.arrival_errors)

    def _normalized_error(self, error: Tensor, usual: Normalizer) -> Tensor:
        least = (0.05 * self.trajectories.latent_std()).square()
        return (error.square() / torch.maximum(usual.mean_square(), least)).mean(-1)

    def after_step(self) -> None:
        """Move the critic's slow copy and the averaged denoiser."""
        if self.critic is not None:
            self.critic.after_step()
        if self.average is not None:
            self.average.update(self.trajectories)

    def actions(self, x: Float[Tensor, "... L D"]) -> Float[Tensor, "... L A"]:
        """Return a trajectory's actions, or what leads from each latent to the next. The last of these is repeated."""
        if self.trajectories.actions:
            actions = x[..., self.trajectories.feat_dim :]
            return actions if self.discrete else actions.clamp(-1, 1)
        found = self.inverse_dynamics(x)
        found = each(lambda part: part.softmax(-1), self.sizes, found) if self.discrete else found.tanh()
        return torch.cat([found, found[..., -1:, :]], dim=-2)

    def inverse_dynamics(self, latents: Float[Tensor, "... L F"]) -> Float[Tensor, "... L1 A"]:
        """Raw inverse dynamics, of the latent and of how far it moves, both in deviations."""
        now, then = latents[..., :-1, :], latents[..., 1:, :]
        std, mean = self.trajectories.latent_std(), self.trajectories.latent_mean()
        return wide(self.inverse_model(torch.cat([(now - mean) / std, (then - now) / std], dim=-1)))

    def concat(self, latents: Float[Tensor, "N L F"], actions: Float[Tensor, "N L A"]) -> Float[Tensor, "N L D"]:
        """Trajectories from their parts."""
        return torch.cat([latents, actions], dim=-1) if self.trajectories.actions else latents
