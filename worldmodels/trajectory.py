"""Imagined futures: who chooses in them, what they hold, what they are worth, and who imagines them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dynamics.base import Dynamics, Memory, State

ValueFunction = Callable[[Tensor], Tensor]
"""Maps feat [N, F] to the expected discounted return [N] from there on."""


@runtime_checkable
class Policy(Protocol):
    """Chooses actions while a model imagines; what it has to remember is its carry, never itself."""

    def initial(self, n: int) -> Memory:
        """Return the carry before the first action of N rows."""

    def __call__(self, state: State, carry: Memory, noise: Tensor | None) -> tuple[Float[Tensor, "N A"], Memory]:
        """Return the actions in N states and the next carry.

        ``noise`` [N, K] is this step's, where whoever imagines gave any; else a policy draws its own.
        """


ActionSource = Tensor | Policy | Callable[[Tensor], Tensor]
"""Actions [N, H, A] fixed in advance, a policy, or a function from features [N, F] to actions [N, A]."""


@dataclass(frozen=True)
class FeaturePolicy:
    """Wrap a function from features to actions."""

    choose: Callable[[Tensor], Tensor]

    def initial(self, n: int) -> Memory:
        """Return an empty carry."""
        return {}

    def __call__(self, state: State, carry: Memory, noise: Tensor | None) -> tuple[Tensor, Memory]:
        """Choose by the features alone."""
        return self.choose(state.feat), carry


class FixedActions:
    """Play actions that were fixed in advance: they are handed over as its noise."""

    def initial(self, n: int) -> Memory:
        """Return an empty carry."""
        return {}

    def __call__(self, state: State, carry: Memory, noise: Tensor | None) -> tuple[Tensor, Memory]:
        """Return this step's action."""
        return noise, carry


def as_policy(source: ActionSource, noise: Tensor | None) -> tuple[Policy, Tensor | None]:
    """Return any source of actions as a policy, and the noise [N, H, K] of its steps."""
    if isinstance(source, Tensor):
        return FixedActions(), source
    return (source if isinstance(source, Policy) else FeaturePolicy(source)), noise


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
    """What every other head reads of each step, by its name."""
    carry: dict[str, Tensor] = field(default_factory=dict)
    """The policy's carry after each step, [N, H, ...]."""

    def discounted_return(self, gamma: float, terminal_value: ValueFunction | None = None) -> Float[Tensor, " N"]:
        """Sum the rewards of each row as far as it goes on, then the value of its last state, if given.

        ``sum_t gamma^t c_0..c_{t-1} r_t + gamma^H c_0..c_{H-1} V(feat_H)``. Arriving in a terminal state is still
        rewarded, nothing after it is. fp32, whatever the model computes in.
        """
        cont = self.cont.float()
        alive = torch.cat([torch.ones_like(cont[:, :1]), cont.cumprod(dim=1)], dim=1)
        weight = alive * gamma ** torch.arange(alive.shape[1], device=cont.device)
        total = (weight[:, :-1] * self.reward.float()).sum(dim=1)
        if terminal_value is not None:
            total = total + weight[:, -1] * terminal_value(self.feat[:, -1]).float()
        return total


@runtime_checkable
class Model(Protocol):
    """Everything that a planner may ask of a world: a learned model, or the simulator itself."""

    dynamics: Dynamics
    device: torch.device

    def initial(self, n: int) -> State:
        """Return the state before an episode's first frame."""

    def imagine(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Tensor | None = None,
    ) -> Trajectory:
        """Roll ``imag_horizon`` steps on from N states; ``noise`` [N, H, K] is the policy's."""

    def imagine_frozen(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Tensor | None = None,
    ) -> Trajectory:
        """Imagine with gradients that reach states and actions but no parameter of the model."""


@runtime_checkable
class LearnedModel(Model, Protocol):
    """What planners with learned parts ask beside: heads by name, and what features look like."""

    heads: Any

    def decode(self, feat: Float[Tensor, "... F"]) -> dict[str, Tensor]:
        """Return observations as features hold them."""


Shaping = Callable[[Trajectory], Trajectory]
"""Gives an imagined future the rewards and continuations by which a planner is to count it."""


def imagine_shaped(
    model: Model,
    state: State,
    policy: ActionSource,
    imag_horizon: int,
    shaping: Shaping | None = None,
    generator: Generator | None = None,
    noise: Tensor | None = None,
    frozen: bool = False,
) -> Trajectory:
    """Imagine as every planner does: the one place where a bonus or a penalty enters.

    With ``frozen``, gradients reach the actions but no parameter of the model.
    """
    imagine = model.imagine_frozen if frozen else model.imagine
    trajectory = imagine(state, policy, imag_horizon, generator, noise)
    return trajectory if shaping is None else shaping(trajectory)
