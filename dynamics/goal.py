"""Goal-conditioned latents: a backbone's features with the goal's latent behind them."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Rollout, State
from worldmodels.errors import UserError

GOAL_LATENT = "goal"
"""Key of the goal's latent in the memory of a state."""


def split_goal(feat: Float[Tensor, "... F"], goal_dim: int) -> tuple[Tensor, Tensor | None]:
    """Split features into the latent and the goal. The goal is None where they hold none."""
    return (feat[..., :-goal_dim], feat[..., -goal_dim:]) if goal_dim else (feat, None)


def join_goal(latents: Float[Tensor, "M L G"], goal: Float[Tensor, "M G"] | None) -> Tensor:
    """Join latents of trajectories with each row's goal. Without goals, return the latents themselves."""
    return latents if goal is None else torch.cat([latents, goal[:, None].expand(-1, latents.shape[1], -1)], dim=-1)


def next_features(feat: Float[Tensor, "B T F"], goal_dim: int) -> Float[Tensor, "B T1 F"]:
    """Return the feature that each row but the last leads to, under its own goal. The next row's may be another."""
    (latent, goal), (_, before) = split_goal(feat[:, 1:], goal_dim), split_goal(feat[:, :-1], goal_dim)
    return latent if goal is None else torch.cat([latent, before], dim=-1)


class GoalConditioned(Dynamics):
    """Backbone with goals, its features [z_t, g]: g is what it makes of the goal's frame, seen as an episode's first.

    So heads, policies and values know the goal without knowing of goals, and planners find in g a latent to arrive in.
    It comes with the observation, stays as it is while imagining, and shapes nothing: no gradient leads through it.
    It may change in mid-episode: :func:`worldmodels.common.batch.goal_changed`, :func:`next_features`.

    Args:
        backbone: of any kind. Of the two embeddings of every row it reads the first. The second is the goal's.
    """

    def __init__(self, backbone: Dynamics) -> None:
        super().__init__()
        self.backbone = backbone
        self.goal_dim, self.feat_dim = backbone.feat_dim, 2 * backbone.feat_dim
        self.action_dim, self.max_length = backbone.action_dim, backbone.max_length
        self.gradient, self.recurrent = backbone.gradient, backbone.recurrent
        self.long_memory = backbone.long_memory
        self.layouts = [{**layout, GOAL_LATENT: (self.goal_dim,)} for layout in backbone.layouts]

    @property
    def sample(self) -> bool:
        """Whether the backbone draws its latents."""
        return self.backbone.sample

    @sample.setter
    def sample(self, value: bool) -> None:
        self.backbone.sample = value

    @override
    def initial(self, n: int) -> State:
        state = self.backbone.initial(n)
        return self._with(state, torch.zeros_like(state.feat))

    def observe(
        self,
        embed: Float[Tensor, "B T 2 *E"],
        action: Float[Tensor, "B T A"],
        reset: Bool[Tensor, "B T"],
        state: State,
    ) -> tuple[Rollout, State]:
        """Filter with the backbone, and put each row's own goal behind its feature."""
        self.check(action, state)
        present, shown = embed.unbind(2)
        rollout, last = self.backbone.observe(present, action, reset, self._without(state))
        goal = self.encode_goal(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        feat, post = (torch.cat([x, goal], dim=-1) for x in (rollout.feat, rollout.post))
        rollout = replace(rollout, feat=feat, post=post, memory=rollout.memory | {GOAL_LATENT: goal})
        return rollout, self._with(last, goal[:, -1])

    def obs_step(
        self,
        embed: Float[Tensor, "N 2 *E"],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
        sample: bool | None = None,
    ) -> State:
        """Filter the present, and encode the goal beside it."""
        self.check(action, state)
        present, shown = embed.unbind(1)
        goal = self.encode_goal(shown, generator)
        state = self.backbone.obs_step(present, action, reset, self._without(state), generator, sample)
        return self._with(state, goal)

    @torch.no_grad()
    def encode_goal(self, embed: Float[Tensor, "N *E"], generator: Generator | None = None) -> Float[Tensor, "N F"]:
        """Filter single frames as an episode's first. Latents take their mode."""
        n = len(embed)
        reset, action = embed.new_ones(n, dtype=torch.bool), embed.new_zeros(n, self.action_dim)
        # Latents take their mode: else a goal would be another one in every frame.
        return self.backbone.obs_step(embed, action, reset, self.backbone.initial(n), generator, sample=False).feat

    def with_goal(self, state: State, goal: Float[Tensor, "N G"]) -> State:
        """Return the state with another goal, a latent of the backbone's. Raise ``UserError`` where it is none."""
        expected = (len(state.feat), self.goal_dim)
        if tuple(goal.shape) != expected:
            raise UserError(f"a goal for these states is a latent of shape {expected}, not {tuple(goal.shape)}.")
        return self._with(self._without(state), goal)

    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Imagine one step under the same goal."""
        self.check(action, state)
        return self._with(self.backbone.img_step(action, self._without(state), generator), state.memory[GOAL_LATENT])

    @override
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        state = self.backbone.starts(self._inner(rollout), last)
        steps = len(state.feat) // len(rollout.post)
        return self._with(state, rollout.memory[GOAL_LATENT][:, -steps:].flatten(0, 1))

    @override
    def fork(self, state: State, n: int) -> State:
        return self._with(
            self.backbone.fork(self._without(state), n), state.memory[GOAL_LATENT].repeat_interleave(n, dim=0)
        )

    @override
    def select(self, state: State, rows: Int64[Tensor, " K"] | slice) -> State:
        return self._with(self.backbone.select(self._without(state), rows), state.memory[GOAL_LATENT][rows])

    @override
    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        return self.backbone.loss(self._inner(rollout), reset)

    @override
    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        return self.backbone.metrics(self._inner(rollout))

    def _inner(self, rollout: Rollout) -> Rollout:
        memory = {key: value for key, value in rollout.memory.items() if key != GOAL_LATENT}
        feat, post = (x[..., : self.goal_dim] for x in (rollout.feat, rollout.post))
        return replace(rollout, feat=feat, post=post, memory=memory)

    def _without(self, state: State) -> State:
        memory = {key: value for key, value in state.memory.items() if key != GOAL_LATENT}
        return State(state.feat[:, : self.goal_dim], memory)

    def _with(self, state: State, goal: Float[Tensor, "N F"]) -> State:
        return State(torch.cat([state.feat, goal], dim=-1), {**state.memory, GOAL_LATENT: goal})
