"""The contract every latent dynamics backbone keeps, and the axis legend of the whole project.

Axes: ``B`` batch, ``T`` time, ``N`` independent rows, ``H`` imagined steps, ``A`` action, ``E`` embedding,
``F`` feature, ``S x C`` latent groups x classes.

Time: ``action[:, t]`` is the action that *led into* ``obs[:, t]``, zero at an episode's first frame. ``reset[:, t]``
marks the frames before which nothing may be remembered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn

from worldmodels.errors import UserError
from worldmodels.nets.deferred import weights_at_once

Memory = dict[str, Tensor]
"""Tensors of N rows (or, inside a :class:`Rollout`, whatever its owner chose); private to whoever made it."""
MemoryLayout = dict[str, tuple[int | None, ...]]
"""Keys of a memory and the shapes of its rows; None for an axis of any length."""

KL = "kl"
"""Metric of a backbone with a prior: how far a frame moves the state from what was foreseen, in nats."""


@dataclass(frozen=True)
class State:
    """N independent latent states.

    ``feat`` is all that heads, planners and costs ever read. ``memory`` belongs to the :class:`Dynamics` that made it.
    """

    feat: Float[Tensor, "N F"]
    memory: Memory

    def map(self, fn: Callable[[Tensor], Tensor]) -> State:
        """Apply ``fn`` to every tensor, ``Tensor.detach`` for example. Rows are chosen by :meth:`Dynamics.select`."""
        return State(fn(self.feat), {key: fn(value) for key, value in self.memory.items()})


@dataclass(frozen=True)
class FeatureSpec:
    """Sizes of a feature, as a planner that learns has to know them."""

    latent_dim: int
    """Numbers of the latent, the first."""
    goal_dim: int = 0
    """Numbers of a goal, the last; 0 where there is none."""

    @property
    def feat_dim(self) -> int:
        """Numbers of a feature in all."""
        return self.latent_dim + self.goal_dim


@dataclass(frozen=True)
class Rollout:
    """Filtered sequences: the result of :meth:`Dynamics.observe`."""

    feat: Float[Tensor, "B T F"]
    """Trains the heads."""
    post: Float[Tensor, "B T F"]
    """Grounded in the observations: regression targets and imagination starts."""
    weight: Float[Tensor, "B T"]
    """How much the heads' losses on ``feat`` count; 1 for states that are as good as any."""
    stats: dict[str, Tensor]
    """Logits and the like, for losses and metrics."""
    memory: Memory
    """Needed by :meth:`Dynamics.starts` of each step [B, T, ...], in whatever compact form."""
    before: Memory = field(default_factory=dict)
    """Needed by it of the state that the sequences continued [B, ...]."""

    def detach(self) -> Rollout:
        """Return the same rollout, from which no gradient leads back."""
        parts = (self.stats, self.memory, self.before)
        detached = ({key: value.detach() for key, value in part.items()} for part in parts)
        return Rollout(self.feat.detach(), self.post.detach(), self.weight.detach(), *detached)


class Dynamics(nn.Module, ABC):
    """A latent model of how observations follow from actions.

    Nothing recurrent lives on the module: every state is an argument and a result, so that training, acting, evaluating
    and drawing never disturb one another. ``generator`` draws latents without touching the global random stream.
    ``None`` uses the global one.
    """

    feat_dim: int
    action_dim: int
    goal_dim: int = 0
    """How many numbers of a feature, the last, are a goal's (:class:`dynamics.goal.GoalConditioned`)."""
    memory_dim: int = 0
    """How many numbers of a feature, the last but the goal's, are a deterministic memory's."""
    sample: bool = True
    """False: latents take their mode, so that two ways of computing the same thing can be compared."""
    recurrent: bool = True
    """False: a filtered state follows from its own frame alone."""
    max_length: int | None = None
    """Longest sequence that can be observed, and most steps that can be imagined; None: any."""
    long_memory: bool = False
    """True: a state may hold more than a window of training ever put into it, so that windows must continue others."""
    gradient: str = "exact"
    """Gradient from an imagined state back to actions: ``exact``, ``straight_through`` (biased), or ``none``."""
    layouts: list[MemoryLayout]
    """Layouts of every form that the memory of a state takes, the initial one first."""

    @property
    def feature_spec(self) -> FeatureSpec:
        """Return the sizes of a feature, as a planner that learns has to know them."""
        return FeatureSpec(self.feat_dim - self.goal_dim, self.goal_dim)

    @abstractmethod
    def initial(self, n: int) -> State:
        """Return the state before an episode's first frame."""

    def check(self, action: Float[Tensor, "... A"], state: State) -> None:
        """Refuse an action of the wrong width and a state that another backbone made: call it before using either.

        Raises:
            UserError: naming what was given and what was expected.
        """
        if action.shape[-1] != self.action_dim:
            raise UserError(f"an action has {self.action_dim} numbers in this model, not {action.shape[-1]}.")
        known = any(fits(state.memory, layout) for layout in self.layouts)
        if state.feat.shape[-1] != self.feat_dim or not known:
            raise UserError(
                f"this state was not made by this model: it has {state.feat.shape[-1]} features and the memory "
                f"{sorted(state.memory)}, where {self.feat_dim} and {sorted(self.layouts[0])} are expected."
            )

    @abstractmethod
    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        action: Float[Tensor, "B T A"],
        reset: Bool[Tensor, "B T"],
        state: State,
    ) -> tuple[Rollout, State]:
        """Filter whole sequences that continue ``state`` (B rows), with resets anywhere. Also return the last state."""

    @abstractmethod
    def obs_step(
        self,
        embed: Float[Tensor, "N E"],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
        sample: bool | None = None,
    ) -> State:
        """Filter one frame, as while acting. ``sample`` says whether the latent is drawn. None: as :attr:`sample`."""

    @abstractmethod
    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Take one step of the prior: what the model believes follows from ``action``."""

    @abstractmethod
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        """Return every posterior (or the ``last`` K of each window) as detached rows, b-major: [B*T] or [B*K]."""

    def compile_step(self) -> None:
        """Compile what every imagined step computes, where a backbone has that in one place."""
        return

    def fork(self, state: State, n: int) -> State:
        """Repeat each row ``n`` times, consecutively, for planners that try many actions from one state."""
        return state.map(lambda x: x.repeat_interleave(n, dim=0))

    def select(self, state: State, rows: Int64[Tensor, " K"] | slice) -> State:
        """Return some rows of a state. ``map`` cannot: what rows share may have no row of its own."""
        return state.map(lambda x: x[rows])

    @abstractmethod
    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        """Return the backbone's own losses, unreduced [B, T]."""

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return by name what is worth logging beside the losses. Means are logged.

        Among it, where there is a prior, :data:`KL` [B, T] of each step's posterior and prior.
        """
        return {}


class Core(nn.Module, ABC):
    """Deterministic part of a backbone: where GRU, transformer, SSM and Mamba really differ.

    A core is built with ``in_dim`` and exposes ``out_dim``. Its memory is a dict of [N, ...] tensors.
    """

    out_dim: int
    max_length: int | None = None
    """Longest sequence for :meth:`scan`, and most steps that can be imagined; None: any."""
    long_memory: bool = False
    """True: it sums its inputs for longer than a window of training (:attr:`Dynamics.long_memory`)."""

    @abstractmethod
    def initial(self, n: int) -> Memory:
        """Return the memory before the first input."""

    @abstractmethod
    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Advance one step. Where ``reset``, ``memory`` is forgotten first (None: nowhere, as while imagining)."""

    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        """Advance T steps. Return outputs, the :meth:`entry` of each step [B, T, ...] and the last memory.

        Default: a loop.
        """
        outputs, entries = [], []
        with weights_at_once(self, x) as x:
            for now, first in zip(x.unbind(1), reset.unbind(1), strict=True):  # see StochasticLatent._observe_loop
                output, memory = self.step(now, first, memory)
                outputs.append(output)
                entries.append(self.entry(memory))
        return torch.stack(outputs, dim=1), stack_memories(entries), memory

    def entry(self, memory: Memory) -> Memory:
        """Return the part of a memory that :meth:`starts` needs of every step of a sequence. Default: all of it."""
        return memory

    def starts(self, entries: Memory, reset: Bool[Tensor, "B T"], before: Memory, last: int) -> Memory:
        """Return memories after each of the ``last`` steps as rows, b-major, from detached entries of all steps.

        ``before`` is the memory that the sequence continued. Default: entries are memories already.
        """
        return {key: value[:, -last:].flatten(0, 1) for key, value in entries.items()}

    def fork(self, memory: Memory, n: int) -> Memory:
        """Repeat each row ``n`` times, consecutively."""
        return {key: value.repeat_interleave(n, dim=0) for key, value in memory.items()}

    def select(self, memory: Memory, rows: Int64[Tensor, " K"] | slice) -> Memory:
        """Return some rows of a memory."""
        return {key: value[rows] for key, value in memory.items()}

    def layouts(self) -> list[MemoryLayout]:
        """Return the layout of every form that a memory takes, the initial one first."""
        return [layout_of(self.initial(1))]


def last_steps(last: int | None, length: int) -> int:
    """Return how many of a window's steps are to be starts. Refuse what it does not have."""
    if last is not None and not 1 <= last <= length:
        raise UserError(f"of a window of {length} steps the last {last} cannot be starts.")
    return length if last is None else last


def layout_of(memory: Memory) -> MemoryLayout:
    """Return a memory's keys and the shapes of its rows."""
    return {key: tuple(value.shape[1:]) for key, value in memory.items()}


def fits(memory: Memory, layout: MemoryLayout) -> bool:
    """Return whether a memory is of that layout."""
    return memory.keys() == layout.keys() and all(
        value.ndim == 1 + len(layout[key])
        and all(want in (None, have) for want, have in zip(layout[key], value.shape[1:], strict=True))
        for key, value in memory.items()
    )


def stack_memories(memories: Sequence[Memory]) -> Memory:
    """Stack T memories of [N, ...] into one of [N, T, ...]."""
    return {key: torch.stack([memory[key] for memory in memories], dim=1) for key in memories[0]}


def clear_rows(memory: Memory, reset: Bool[Tensor, " N"], initial: Memory) -> Memory:
    """Replace the rows of ``memory`` under ``reset`` by ``initial``. The other rows stay bit-equal."""
    return {
        key: torch.where(reset.reshape(-1, *[1] * (value.ndim - 1)), initial[key], value)
        for key, value in memory.items()
    }
