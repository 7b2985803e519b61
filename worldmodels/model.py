"""The world model: encoder, latent dynamics, heads and objectives behind four verbs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from dynamics.base import Dynamics, Memory, Rollout, State, stack_memories
from worldmodels.common.precision import wide
from worldmodels.errors import UserError, require
from worldmodels.heads.base import Head
from worldmodels.nets.encoders import Encoder
from worldmodels.nets.goal_encoder import GoalEncoder
from worldmodels.nets.layers import call_frozen
from worldmodels.objectives.base import Context, Objective

ValueFunction = Callable[[Tensor], Tensor]
"""Maps feat [N, F] to the expected discounted return [N] from there on."""


@runtime_checkable
class Policy(Protocol):
    """Chooses actions while a model imagines. What it has to remember is its carry, never itself."""

    def initial(self, n: int) -> Memory:
        """Return the carry before the first action of N rows."""

    def __call__(self, state: State, carry: Memory, noise: Tensor | None) -> tuple[Float[Tensor, "N A"], Memory]:
        """Return the actions in N states and the next carry.

        ``noise`` [N, K] is this step's, where whoever imagines gave any. Else a policy draws its own.
        """


ActionSource = Tensor | Policy | Callable[[Tensor], Tensor]
"""Actions [N, H, A] fixed in advance, a policy, or a function from features [N, F] to actions [N, A]."""


@dataclass(frozen=True)
class MemorylessPolicy:
    """Wrap a function from a state and its noise to actions."""

    choose: Callable[[State, Tensor | None], Tensor]

    def initial(self, n: int) -> Memory:
        """Return an empty carry."""
        return {}

    def __call__(self, state: State, carry: Memory, noise: Tensor | None) -> tuple[Tensor, Memory]:
        """Choose by the state alone."""
        return self.choose(state, noise), carry


def as_policy(source: ActionSource, noise: Tensor | None) -> tuple[Policy, Tensor | None]:
    """Return any source of actions as a policy, and the noise [N, H, K] of its steps.

    Actions that were fixed in advance are handed over as noise.
    """
    if isinstance(source, Tensor):
        return MemorylessPolicy(lambda state, action: action), source
    if isinstance(source, Policy):
        return source, noise
    return MemorylessPolicy(lambda state, _: source(state.feat)), noise


@dataclass(frozen=True)
class Trajectory:
    """N imagined futures of H steps."""

    feat: Float[Tensor, "N H1 F"]
    """H + 1 states, the start included."""
    action: Float[Tensor, "N H A"]
    reward: Float[Tensor, "N H"]
    """Decoded reward of each step: for arriving in ``feat[:, 1:]``, or with ``heads=transition`` for the action."""
    cont: Float[Tensor, "N H"]
    """Probability in [0, 1] that ``feat[:, 1:]`` is not terminal."""
    extra: dict[str, Float[Tensor, "N H"]] = field(default_factory=dict)
    """Readings of every other head at each step, by its name."""
    carry: dict[str, Tensor] = field(default_factory=dict)
    """The policy's carry after each step, [N, H, ...]."""

    def discounted_return(self, gamma: float, terminal_value: ValueFunction | None = None) -> Float[Tensor, " N"]:
        """Sum the rewards of each row as far as it goes on, then the value of its last state, if given.

        ``sum_t gamma^t c_0..c_{t-1} r_t + gamma^H c_0..c_{H-1} V(feat_H)``. Arriving in a terminal state is still
        rewarded, nothing after it is. fp32, whatever the model computes in.
        """
        cont = wide(self.cont)
        alive = torch.cat([torch.ones_like(cont[:, :1]), cont.cumprod(dim=1)], dim=1)
        weight = alive * gamma ** torch.arange(alive.shape[1], device=cont.device)
        total = (weight[:, :-1] * wide(self.reward)).sum(dim=1)
        if terminal_value is not None:
            total = total + weight[:, -1] * wide(terminal_value(self.feat[:, -1]))
        return total


class WorldModel(nn.Module):
    """Encode, observe, imagine, decode: everything that planners, losses and pictures ask of a learned world.

    ``heads`` holds ``reward`` and ``cont``, which every planner reads, and others by name. ``objectives`` shape the
    latent, and the first that owns a decoder draws.
    """

    def __init__(
        self,
        encoder: Encoder | GoalEncoder,
        dynamics: Dynamics,
        heads: Mapping[str, Head],
        objectives: Mapping[str, Objective],
    ) -> None:
        super().__init__()
        require(
            {"reward", "cont"} <= heads.keys(),
            f"planners read the heads reward and cont, and this model has {sorted(heads)}: name both under heads.",
        )
        views = [name for name, objective in objectives.items() if type(objective).view is not Objective.view]
        require(
            len(views) <= 1,
            f"the objectives {', '.join(views)} each change what the encoder is shown: train with one of them.",
        )
        self.encoder = encoder
        self.dynamics = dynamics
        self.heads = nn.ModuleDict(heads)
        self.objectives = nn.ModuleDict(objectives)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def initial(self, n: int) -> State:
        """Return the state before an episode's first frame."""
        return self.dynamics.initial(n)

    def observe(self, batch: dict[str, Tensor], state: State) -> tuple[Rollout, State, Float[Tensor, "B T *E"]]:
        """Filter a batch of sequences that continue ``state``. Also return the last state and the embeddings."""
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
        """Encode and filter one frame. ``action`` is the one that led into it."""
        embed = self.encoder(self.encoder.augment(obs, generator))
        return self.dynamics.obs_step(embed, action, reset, state, generator)

    def encode_goal(self, obs: dict[str, Tensor]) -> Float[Tensor, "N G"]:
        """Return the latent of present frames, seen as goals are. Only models whose observations hold a goal can."""
        return self.dynamics.encode_goal(self.encoder.encoder(self.encoder.as_goal(obs)))

    def losses(
        self, batch: dict[str, Tensor], state: State, context: Context | None = None
    ) -> tuple[dict[str, Tensor], Rollout]:
        """Return every loss of the model by name, unreduced [B, T], and the rollout they were taken on.

        A part that is frozen has none (:meth:`learns`).
        """
        context = context or Context(self)
        rollout, _, embed = self.observe(self.view(batch), state)
        losses = self.dynamics.loss(rollout, batch["reset"]) if self.learns(self.dynamics) else {}
        for name, objective in self.objectives.items():
            if self.learns(objective):
                read = (rollout, embed) if objective.trains_latent else (rollout.detach(), embed.detach())
                losses = merge_losses(losses, objective(*read, batch, context), f"objective.{name}")
        for name, head in self.heads.items():
            if self.learns(head):
                loss = head.loss(rollout if head.trains_latent else rollout.detach(), batch)
                losses = merge_losses(losses, {name: loss}, f"heads.{name}")
        return losses, rollout

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that may have losses, by their place in a configuration."""
        return {
            "dynamics": self.dynamics,
            **{f"objective.{name}": objective for name, objective in self.objectives.items()},
            **{f"heads.{name}": head for name, head in self.heads.items()},
        }

    def learns(self, part: nn.Module) -> bool:
        """Return whether a part, or a planner, has anything to learn: parameters of its own that are not frozen.

        A part without any has the latent's.
        """
        own = [p.requires_grad for p in part.parameters()]
        latent = itertools.chain(self.encoder.parameters(), self.dynamics.parameters())
        return any(own) if own else any(p.requires_grad for p in latent)

    def view(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the encoder is shown: while training, the batch as an objective changes it."""
        for objective in self.objectives.values() if self.training else ():
            batch = objective.view(batch)
        return batch

    def after_step(self) -> None:
        """Let objectives follow the newest weights."""
        for objective in self.objectives.values():
            objective.after_step(self)

    def imagine(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Float[Tensor, "N H K"] | None = None,
        frozen: bool = False,
    ) -> Trajectory:
        """Roll the prior ``imag_horizon`` steps from N states and read the heads along the way.

        ``noise`` is handed to the policy, a step at a time. With ``frozen``, gradients reach states and actions but
        none of this model's parameters.
        """
        arguments = (state, policy, imag_horizon, generator, noise)
        return call_frozen(self, *arguments) if frozen else self(*arguments)

    def forward(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None,
        noise: Float[Tensor, "N H K"] | None,
    ) -> Trajectory:
        """Imagine, under the name that lets it be called with other parameters."""
        policy, noise = as_policy(policy, noise)
        carry, feats, actions, carries = policy.initial(len(state.feat)), [state.feat], [], []
        for t in range(imag_horizon):
            action, carry = policy(state, carry, None if noise is None else noise[:, t])
            state = self.dynamics.img_step(action, state, generator)
            feats.append(state.feat)
            actions.append(action)
            carries.append(carry)
        feat, action = torch.stack(feats, dim=1), torch.stack(actions, dim=1)
        read = {name: head(feat, action) for name, head in self.heads.items()}
        return Trajectory(feat, action, read.pop("reward"), read.pop("cont"), read, stack_memories(carries))

    def decode(self, feat: Float[Tensor, "... F"]) -> dict[str, Tensor]:
        """Return observations as the latent holds them: ``pixels`` in [0, 1], ``state`` in the environment's units."""
        for objective in self.objectives.values():
            if objective.decoder is not None:
                return objective.decoder(feat)
        raise ValueError("none of this world model's objectives has a decoder")


def merge_losses(losses: dict[str, Tensor], more: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the losses with those of one more part, under names that must be new."""
    for name in losses.keys() & more.keys():
        raise UserError(f"{part} has a loss {name!r}, as another part has: names of losses are unique, rename one.")
    return losses | more
