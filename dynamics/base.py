"""The contract every latent dynamics backbone keeps, and the axis legend of the whole project.

Axes: ``B`` batch, ``T`` time, ``N`` independent rows, ``H`` imagined steps, ``A`` action, ``E`` embedding,
``F`` feature, ``S x C`` latent groups x classes.

Time: ``action[:, t]`` is the action that *led into* ``obs[:, t]``, zero at an episode's first frame;
``reset[:, t]`` marks the frames before which nothing may be remembered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

Memory = dict[str, Tensor]
"""Tensors of N rows (or, inside a :class:`Rollout`, whatever its owner chose); private to whoever made it."""


@dataclass(frozen=True)
class State:
    """N independent latent states.

    ``feat`` is all that heads, planners and costs ever read; ``memory`` belongs to the :class:`Dynamics` that made it.
    """

    feat: Float[Tensor, "N F"]
    memory: Memory

    def map(self, fn: Callable[[Tensor], Tensor]) -> State:
        """Apply ``fn`` to every tensor, for example ``lambda x: x[rows]`` or ``Tensor.detach``."""
        return State(fn(self.feat), {key: fn(value) for key, value in self.memory.items()})


@dataclass(frozen=True)
class Rollout:
    """What :meth:`Dynamics.observe` made of a batch of sequences."""

    feat: Float[Tensor, "B T F"]
    """Trains the heads."""
    post: Float[Tensor, "B T F"]
    """Grounded in the observations: regression targets and imagination starts."""
    stats: dict[str, Tensor]
    """Logits and the like, for losses and metrics."""
    memory: Memory
    """Per-step memory, in whatever compact form :meth:`Dynamics.starts` needs."""


class Dynamics(nn.Module, ABC):
    """A latent model of how observations follow from actions.

    Nothing recurrent lives on the module: every state is an argument and a result, so that training, acting,
    evaluating and drawing never disturb one another. ``generator`` draws latents without touching the global random
    stream; ``None`` uses the global one.
    """

    feat_dim: int
    sample: bool = True
    """False: latents take their mode, so that two ways of computing the same thing can be compared."""

    @abstractmethod
    def initial(self, n: int) -> State:
        """The state before an episode's first frame."""

    @abstractmethod
    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        action: Float[Tensor, "B T A"],
        reset: Bool[Tensor, "B T"],
        state: State,
    ) -> tuple[Rollout, State]:
        """Filter whole sequences that continue ``state`` (B rows), with resets anywhere; also return the last state."""

    @abstractmethod
    def obs_step(
        self,
        embed: Float[Tensor, "N E"],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
    ) -> State:
        """Filter one frame, as while acting."""

    @abstractmethod
    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Take one step of the prior: what the model believes follows from ``action``."""

    @abstractmethod
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        """Every posterior of the batch (or the ``last`` K of each window) as detached rows, b-major: [B*T] or [B*K]."""

    def fork(self, state: State, n: int) -> State:
        """Repeat each row ``n`` times, consecutively, for planners that try many actions from one state."""
        return state.map(lambda x: x.repeat_interleave(n, dim=0))

    @abstractmethod
    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        """The backbone's own losses, unreduced [B, T]."""

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """What is worth watching beside the losses, by name; means are logged."""
        return {}


class Core(nn.Module, ABC):
    """The deterministic part of a backbone: where GRU, transformer, SSM and Mamba really differ.

    A core is built with ``in_dim`` and exposes ``out_dim``. Its memory is a dict of [N, ...] tensors.
    """

    out_dim: int

    @abstractmethod
    def initial(self, n: int) -> Memory:
        """Memory before the first input."""

    @abstractmethod
    def output(self, memory: Memory) -> Float[Tensor, "N D"]:
        """The output that belongs to ``memory``, so that a state can be rebuilt from its memory alone."""

    @abstractmethod
    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Advance one step; where ``reset``, ``memory`` is forgotten first (None: nowhere, as while imagining)."""

    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory]:
        """Advance T steps; return outputs and the memory after *each*, [B, T, ...]. Default: a loop over ``step``."""
        outputs, memories = [], []
        for t in range(x.shape[1]):
            output, memory = self.step(x[:, t], reset[:, t], memory)
            outputs.append(output)
            memories.append(memory)
        return torch.stack(outputs, dim=1), stack_memories(memories)


def stack_memories(memories: list[Memory]) -> Memory:
    """T memories of [N, ...] as one of [N, T, ...]."""
    return {key: torch.stack([memory[key] for memory in memories], dim=1) for key in memories[0]}


def clear_rows(memory: Memory, reset: Bool[Tensor, " N"], initial: Memory) -> Memory:
    """``memory`` with the rows under ``reset`` replaced by ``initial``; the other rows stay bit-equal."""
    return {
        key: torch.where(reset.reshape(-1, *[1] * (value.ndim - 1)), initial[key], value)
        for key, value in memory.items()
    }
