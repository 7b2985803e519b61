"""The world model: encoder, latent dynamics, heads and objectives behind four verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from dynamics.base import Dynamics, Rollout, State, stack_memories
from worldmodels.nets.encoders import Encoder, GoalEncoder
from worldmodels.nets.layers import call_frozen
from worldmodels.objectives.base import Objective
from worldmodels.trajectory import ActionSource, Trajectory, as_policy


class WorldModel(nn.Module):
    """Encode, observe, imagine, decode: everything that planners, losses and pictures ask of a learned world.

    ``heads`` holds ``reward`` and ``cont``; ``objectives`` shape the latent, and the first that owns a decoder draws.
    """

    def __init__(
        self,
        encoder: Encoder | GoalEncoder,
        dynamics: Dynamics,
        heads: Mapping[str, nn.Module],
        objectives: Sequence[Objective],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dynamics = dynamics
        self.heads = nn.ModuleDict(heads)
        self.objectives = nn.ModuleList(objectives)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def initial(self, n: int) -> State:
        """The state before an episode's first frame."""
        return self.dynamics.initial(n)

    def observe(self, batch: dict[str, Tensor], state: State) -> tuple[Rollout, State, Float[Tensor, "B T E"]]:
        """Filter a batch of sequences that continue ``state``; also return the last state and the embeddings."""
        embed = self.encoder(batch)
        rollout, last = self.dynamics.observe(embed, batch["action"], batch["reset"], state)
        return rollout, last, embed

    def obs_step(
        self,
        obs: dict[str, Tensor],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
    ) -> State:
        """Encode and filter one frame; ``action`` is the one that led into it."""
        return self.dynamics.obs_step(self.encoder(obs), action, reset, state, generator)

    def encode_goal(self, obs: dict[str, Tensor]) -> Float[Tensor, "N G"]:
        """The latent of present frames, seen as goals are; only of models whose observations hold a goal."""
        return self.dynamics.encode_goal(self.encoder.encoder(self.encoder.as_goal(obs)))

    def losses(self, batch: dict[str, Tensor], state: State) -> tuple[dict[str, Tensor], Rollout]:
        """Every loss of the model by name, unreduced [B, T], and the rollout they were taken on."""
        rollout, _, embed = self.observe(batch, state)
        losses = self.dynamics.loss(rollout, batch["reset"])
        for objective in self.objectives:
            losses |= objective(rollout, embed, batch)
        for name, head in self.heads.items():
            losses[name] = head.loss(rollout.feat, rollout.weight, batch, batch["reset"])
        return losses, rollout

    def imagine(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Float[Tensor, "N H K"] | None = None,
    ) -> Trajectory:
        """Roll the prior ``imag_horizon`` steps from N states and read the heads along the way.

        ``noise`` is handed to the policy, a step at a time.
        """
        policy, noise = as_policy(policy, noise)
        carry, feats, actions, carries = policy.initial(len(state.feat)), [state.feat], [], []
        for t in range(imag_horizon):
            action, carry = policy(state, carry, None if noise is None else noise[:, t])
            state = self.dynamics.img_step(action, state, generator)
            feats.append(state.feat)
            actions.append(action)
            carries.append(carry)
        feat, action = torch.stack(feats, dim=1), torch.stack(actions, dim=1)
        reward, cont = self.heads["reward"](feat, action), self.heads["cont"](feat, action)
        return Trajectory(feat, action, reward, cont, stack_memories(carries))

    def imagine_frozen(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Float[Tensor, "N H K"] | None = None,
    ) -> Trajectory:
        """:meth:`imagine`, with gradients that reach states and actions but none of this model's parameters."""
        return call_frozen(self, state, policy, imag_horizon, generator, noise)

    def forward(self, *arguments: Any) -> Trajectory:
        """:meth:`imagine`, under the name that lets it be called with other parameters."""
        return self.imagine(*arguments)

    def decode(self, feat: Float[Tensor, "... F"]) -> dict[str, Tensor]:
        """Observations as the latent holds them: ``pixels`` in [0, 1], ``state`` in the environment's units."""
        for objective in self.objectives:
            if objective.decoder is not None:
                return objective.decoder(feat)
        raise ValueError("none of this world model's objectives has a decoder")
