"""The contract every planner keeps: something that chooses actions by consulting a world model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from dynamics.base import Dynamics, Memory, Rollout, State, clear_rows
from planners.streams import RowStreams
from worldmodels.common.host import read, send
from worldmodels.common.options import AtLeast, validate
from worldmodels.common.precision import wide
from worldmodels.errors import UserError
from worldmodels.heads.base import Head
from worldmodels.model import ActionSource, Trajectory
from worldmodels.nets.choices import Discrete, sizes_of

Options = TypeVar("Options")


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
        frozen: bool = False,
    ) -> Trajectory:
        """Roll ``imag_horizon`` steps on from N states. ``noise`` [N, H, K] is the policy's.

        With ``frozen``, gradients reach states and actions but no parameter of the model.
        """


@runtime_checkable
class LearnedModel(Model, Protocol):
    """World model as planners with learned parts ask it: heads by name, and the form of features too."""

    heads: Mapping[str, Head]

    def decode(self, feat: Float[Tensor, "... F"]) -> dict[str, Tensor]:
        """Return observations as features hold them."""

    def encode_goal(self, obs: dict[str, Tensor]) -> Float[Tensor, "N G"]:
        """Return the latents of frames, seen as goals are."""


Shaping = Callable[[Trajectory], Trajectory]
"""Gives an imagined future the rewards and continuations by which a planner is to count it."""


class ImaginationSize(NamedTuple):
    """Size of what one decision imagines for each environment. Zeros where nothing is imagined."""

    rows: int
    """Candidate sequences."""
    steps: int
    """Decisions in each."""


@dataclass(frozen=True)
class Decision:
    """All that one decision for N environments may read beside the planner's own memory."""

    model: Model | None
    """None for planners that consult no model."""
    state: State
    explore: bool
    generator: Generator | None
    """Source of the model's draws, for all rows at once. None: the global stream."""
    streams: RowStreams
    """Sources of the planner's draws."""
    sums: list[Tensor] = field(default_factory=list)
    """Of values that must be finite, shared with the decisions of some of its rows (:meth:`require_finite`)."""

    @classmethod
    def begin(cls, model: Model | None, state: State, explore: bool, generator: Generator | None) -> Decision:
        """Begin a decision, with a stream of random numbers for each row that ``generator`` seeds."""
        feat = state.feat
        return cls(model, state, explore, generator, RowStreams.seeded(len(feat), generator, feat.device))

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self.state.feat.device

    def select(self, rows: Sequence[int] | slice) -> Decision:
        """Return the same decision for some of the environments."""
        index = rows if isinstance(rows, slice) else send(torch.tensor(rows), self.device)
        if self.model is None:
            state = self.state.map(lambda x: x[index])
        else:
            state = self.model.dynamics.select(self.state, index)
        return replace(self, state=state, streams=self.streams.select(rows))

    def require_finite(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return predicted values, which must be finite. Whether they are is seen where the actions are read."""
        self.sums.append(wide(values).sum())
        return values

    def vouch_for(self, actions: Float[Tensor, "N *A"]) -> Float[Tensor, "N *A"]:
        """Return the actions, or what is no number where a value that they follow from was not finite."""
        if not self.sums:
            return actions
        return torch.where(torch.stack(self.sums).isfinite().all(), actions, torch.nan)


def require_actions(actions: Float[Tensor, "N *A"]) -> Float[Tensor, "N *A"]:
    """Return actions that the host has read. Refuse what stands for values that were not finite.

    Raises:
        FloatingPointError: some are no numbers.
    """
    if not actions.isfinite().all():
        raise FloatingPointError("The model predicts a return that is not finite, so no plan can be made.")
    return actions


@dataclass(frozen=True)
class PlanInfo:
    """A planner's current plan for N environments, and what it chose from, for people to look at."""

    plan: Float[Tensor, "N H A"]
    """The actions planned from the present state on."""
    candidates: Float[Tensor, "N S H A"] | None = None
    """The sequences that were tried, if any are."""
    values: Float[Tensor, "N S"] | None = None
    """Their values."""


class Planner(nn.Module, ABC):
    """Chooses actions for N environments at once.

    Box actions live in [-1, 1]. Discrete actions are one-hot. What survives from one decision to the next (a warm
    start, the rest of a plan) is the ``memory`` argument, so that collecting, evaluating and drawing never touch one
    another's. Subclasses write :meth:`initial` and :meth:`_act`.
    """

    reads_state: bool = False
    """True: it needs no model, but the observation's ``state`` (and the goal's) where others get features."""

    trained_with: ClassVar[tuple[str, ...]] = ()
    """Options of its group that what it learned depends on without a shape that tells: they stay as a run has them."""
    shaping: Shaping | None = None
    """Bonus or penalty on every future that it imagines. None: futures count as the heads read them."""
    follow_up_losses: tuple[str, ...] = ()
    """Names of losses of a second step of each update. None: it takes none."""
    identity: ClassVar[tuple[str, ...]] = ()
    """Options, of the part that learns, that decide what it learns, sizes apart: trained with others it is another."""

    def __init__(self, action_dim: int, discrete: Discrete) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.discrete = bool(discrete)
        self.sizes = sizes_of(action_dim, discrete)

    host_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the memory that stay on the host, as it decides by them what is to be computed."""

    @property
    def imagination_size(self) -> ImaginationSize:
        """How much a decision imagines for each environment."""
        return ImaginationSize(0, 0)

    @property
    def horizons(self) -> dict[str, int]:
        """Return the decisions that it imagines ahead, acting or learning, by the option that says so."""
        return {}

    @property
    def trainable(self) -> Planner:
        """The part that a checkpoint must hold, where anything is learned."""
        return self

    @property
    def min_window(self) -> int:
        """Rows of one episode that a training window must hold to teach it anything."""
        return 1

    def cold_start_fraction(self, length: int) -> float:
        """Return the share of its training trajectories that begin in a window's first row, of ``length``."""
        return 0.0

    @property
    def reads_later(self) -> bool:
        """Whether it learns from rows behind a training window too, of the same episode: goals in hindsight."""
        return False

    def check(self, dynamics: Dynamics, length: int) -> None:
        """Refuse a backbone, or training windows of ``length`` rows, that it cannot use: asked before a training."""
        return

    @abstractmethod
    def initial(self, n: int) -> Memory:
        """Return the memory before the first decision of ``n`` environments."""

    @final
    @torch.no_grad()
    def act(
        self,
        model: Model | None,
        state: State,
        memory: Memory,
        reset: Bool[Tensor, " N"],
        explore: bool,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "N A"], Memory]:
        """Choose one action a row. Rows under ``reset`` start an episode and forget their memory first.

        Actions are no numbers where the model predicts a value that is not finite (:func:`require_actions`). Nothing is
        waited for, if the host holds ``reset``.
        """
        device, reset = state.feat.device, reset if reset.device.type == "cpu" else reset.cpu()
        memory = self._placed(memory, device)
        if any(read(reset)):
            fresh, on_device = self._placed(self.initial(len(reset)), device), send(reset, device)
            for keys, flags in ((self.host_keys, reset), (memory.keys() - set(self.host_keys), on_device)):
                memory |= clear_rows({key: memory[key] for key in keys}, flags, fresh)
        decision = Decision.begin(model, state, explore, generator)
        actions, memory = self._act(decision, memory)
        return decision.vouch_for(actions), memory

    def _placed(self, memory: Memory, device: torch.device) -> Memory:
        """Return the memory where it belongs. It is there already but for the first time."""
        return {key: value if key in self.host_keys else send(value, device) for key, value in memory.items()}

    @abstractmethod
    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Choose actions. ``memory`` is on the right device and cleared where episodes start."""

    @final
    @torch.no_grad()
    def inspect(
        self, model: Model, state: State, memory: Memory, generator: Generator | None = None
    ) -> PlanInfo | None:
        """Return the current plan and its candidates without side effects, or None if nothing is imagined.

        ``memory`` is what :meth:`act` returned in that state, or the initial one.
        """
        decision = Decision.begin(model, state, False, generator)
        info = self._inspect(decision, self._placed(memory, state.feat.device))
        return info if info is None else replace(info, plan=require_actions(decision.vouch_for(info.plan)))

    def _inspect(self, decision: Decision, memory: Memory) -> PlanInfo | None:
        """Return the plan without acting on it."""
        return None

    @final
    def imagine(self, model: Model, state: State, policy: ActionSource, imag_horizon: int, **how: Any) -> Trajectory:
        """Imagine, as all do whose plans or learning count rewards. ``how`` goes to :meth:`Model.imagine`."""
        return self.shaped(model.imagine(state, policy, imag_horizon, **how))

    @final
    def shaped(self, trajectory: Trajectory) -> Trajectory:
        """Return a future with the rewards by which it is to be counted: where a bonus or a penalty enters."""
        return trajectory if self.shaping is None else self.shaping(trajectory)

    def loss(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of the learned parts by name, unreduced. Empty where nothing is learned."""
        return {}

    def follow_up(self, model: Model, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of :attr:`follow_up_losses`, on weights that the update's first step has moved already.

        ``rollout`` is that of the first step, detached. Only :meth:`follow_up_parameters` move, in a step of their own.
        """
        return {}

    def follow_up_parameters(self) -> Iterable[nn.Parameter]:
        """Return what the second step of an update moves, and the first does not."""
        return ()

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return by name what is worth logging beside the losses. Means are logged."""
        return {}

    def after_step(self) -> None:
        """Move averages, after every optimizer step."""
        return


def require_window(length: int, least: int, because: str) -> None:
    """Refuse training windows of too few rows."""
    if length < least:
        raise UserError(
            f"data.length={length} must be at least {least}: {because}.",
            option="data.length",
            value=length,
            allowed=AtLeast(least),
        )


def from_options(kind: type[Options], options: Mapping[str, Any]) -> Options:
    """Make a dataclass of options from a mapping that was held against its annotations."""
    return kind(**validate(kind, options))
