"""The true simulator in a world model's place: what a search finds there that makes no mistakes about what follows.

A learned policy and value take part in it too: what the simulator shows is then filtered by the model that they read.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from typing_extensions import override

from dynamics.base import Dynamics, Rollout, State, stack_memories
from worldmodels.agent import Agent
from worldmodels.envs.plain import array_state
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError, sentence
from worldmodels.evaluation.simulators import ALL, LAST, NOTHING, Played, Simulators
from worldmodels.model import ActionSource, Trajectory, WorldModel, as_policy
from worldmodels.nets.choices import indices, sizes_of

SNAPSHOT = "snapshot"
"""The memory of a state: a simulator's snapshot as bytes, behind their number in eight."""

LATENT = "latent/"
"""Before the keys of what a learned model remembers, in the memory of a state."""


class OracleDynamics(Dynamics):
    """The simulator behind the dynamics contract: a state's memory is a snapshot, a step restores it and steps.

    Args:
        simulators: processes that play.
        action_dim: numbers in an action.
        model: a learned model that filters what the simulator shows, for planners that read its features. None:
            features are the simulator's state, for looking at only.
    """

    gradient = "none"

    def __init__(self, simulators: Simulators, action_dim: int, model: WorldModel | None = None) -> None:
        super().__init__()
        self.simulators, self.action_dim, self.model = simulators, action_dim, model
        self.layouts = [{SNAPSHOT: (None,)}]

    @override
    def initial(self, n: int) -> State:
        latent = State(torch.zeros(n, 1), {}) if self.model is None else self.model.initial(n)
        return self.grounded(latent, torch.zeros(n, 8, dtype=torch.uint8))

    def grounded(self, latent: State, snapshots: Tensor) -> State:
        """Return states of a learned model, or of none, with the simulator's beside them."""
        return State(latent.feat, {SNAPSHOT: snapshots, **{LATENT + key: x for key, x in latent.memory.items()}})

    def latent(self, state: State) -> State:
        """Return the learned model's part of a state."""
        own = {key.removeprefix(LATENT): x for key, x in state.memory.items() if key.startswith(LATENT)}
        return State(state.feat, own)

    def observe(self, embed: Tensor, action: Tensor, reset: Tensor, state: State) -> tuple[Rollout, State]:
        """Refused: a simulator is not filtered."""
        raise UserError("model=simulator observes nothing: it is for planning in evaluate.py and compare.py.")

    def obs_step(
        self,
        embed: Tensor,
        action: Tensor,
        reset: Tensor,
        state: State,
        generator: Generator | None = None,
        sample: bool | None = None,
    ) -> State:
        """Take in snapshots, which ``embed`` holds."""
        return State(torch.zeros(len(embed), 1), {SNAPSHOT: embed})

    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Restore, step, take a snapshot."""
        return self.step(action, state, generator)[0]

    def step(
        self, action: Float[Tensor, "N A"], state: State, generator: Generator | None
    ) -> tuple[State, Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Return the next states, their rewards, and whether they go on."""
        played = self.play(state, action[:, None], ALL)
        snapshots = pack(played.ends)
        if self.model is None:
            after = self.grounded(State(torch.from_numpy(played.feat[:, -1]), {}), snapshots)
        else:
            [latent] = self.filtered(played.seen, action[:, None], self.latent(state), generator)
            after = self.grounded(latent, snapshots)
        reward, cont = (torch.from_numpy(x[:, 0]).to(action.device) for x in (played.reward, played.cont))
        return after, reward, cont

    def filtered(
        self,
        seen: Mapping[str, np.ndarray],
        actions: Float[Tensor, "N K A"],
        latent: State,
        generator: Generator | None,
    ) -> list[State]:
        """Return the learned model's states after each of K observations that continue ``latent``."""
        device, states = actions.device, []
        obs = {key: torch.from_numpy(x).to(device) for key, x in seen.items()}
        no_reset = torch.zeros(len(actions), dtype=torch.bool, device=device)
        for t in range(actions.shape[1]):
            now = {key: x[:, t] for key, x in obs.items()}
            latent = self.model.obs_step(now, actions[:, t], no_reset, latent, generator)
            states.append(latent)
        return states

    @override
    def fork(self, state: State, n: int) -> State:
        if self.model is None:
            return super().fork(state, n)
        latent = self.model.dynamics.fork(self.latent(state), n)
        return self.grounded(latent, state.memory[SNAPSHOT].repeat_interleave(n, dim=0))

    @override
    def select(self, state: State, rows: Int64[Tensor, " K"] | slice) -> State:
        if self.model is None:
            return super().select(state, rows)
        here = rows if isinstance(rows, slice) else rows.cpu()
        return self.grounded(self.model.dynamics.select(self.latent(state), rows), state.memory[SNAPSHOT][here])

    @override
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        raise UserError("model=simulator has no posteriors to imagine from.")

    @override
    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        return {}

    def play(self, state: State, actions: Float[Tensor, "N H A"], kept: slice = NOTHING) -> Played:
        """Play sequences of actions."""
        packed, index = torch.unique_consecutive(state.memory[SNAPSHOT], dim=0, return_inverse=True)
        sizes = sizes_of(actions.shape[-1], self.simulators.discrete)
        given = indices(actions, sizes) if sizes else actions
        return self.simulators.play(unpack(packed), index.numpy(), given.cpu().numpy(), kept)


class Oracle:
    """Stands where a :class:`~worldmodels.model.WorldModel` stands, for planners that search.

    With a learned ``model``, whose features a search's guide reads, the simulator is still what moves and rewards.
    """

    def __init__(self, simulators: Simulators, action_dim: int, model: WorldModel | None = None) -> None:
        self.dynamics, self.model = OracleDynamics(simulators, action_dim, model), model
        self.device = torch.device("cpu") if model is None else model.device

    def initial(self, n: int) -> State:
        """Return states without a snapshot."""
        return self.dynamics.initial(n)

    def imagine(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None = None,
        noise: Tensor | None = None,
        frozen: bool = False,
    ) -> Trajectory:
        """Play actions [N, H, A], or those of a policy, in the simulator, which has no gradients.

        Where a model without a memory reads what is seen, it reads the last step's alone, where a value is asked for.
        Features between are not numbers.
        """
        if frozen:
            raise UserError("no gradient leads back through a simulator: use planner=mppi.")
        if not isinstance(policy, Tensor):
            return self._follow(state, policy, imag_horizon, generator, noise)
        if self.model is None:
            played = self.dynamics.play(state, policy)
            feat = torch.from_numpy(played.feat)
        else:
            kept = ALL if self.model.dynamics.recurrent else LAST
            played = self.dynamics.play(state, policy, kept)
            latent = self.dynamics.latent(state)
            feats = [s.feat for s in self.dynamics.filtered(played.seen, policy[:, kept], latent, generator)]
            unread = [torch.full_like(state.feat, torch.nan)] * (policy.shape[1] - len(feats))
            feat = torch.stack([state.feat, *unread, *feats], dim=1)
        reward, cont = (torch.from_numpy(x).to(policy.device) for x in (played.reward, played.cont))
        return Trajectory(feat, policy, reward, cont)

    def _follow(
        self,
        state: State,
        policy: ActionSource,
        imag_horizon: int,
        generator: Generator | None,
        noise: Tensor | None,
    ) -> Trajectory:
        """Let a policy act in the simulator, a step at a time, on what the learned model makes of what it sees."""
        if self.model is None:
            raise UserError(
                "a policy reads a model's features, which model=simulator has not: use a planner without learned "
                "parts, such as planner=mppi."
            )
        policy, noise = as_policy(policy, noise)
        carry, steps, carries = policy.initial(len(state.feat)), [], []
        feats = [state.feat]
        for t in range(imag_horizon):
            action, carry = policy(state, carry, None if noise is None else noise[:, t])
            state, reward, cont = self.dynamics.step(action, state, generator)
            feats.append(state.feat)
            steps.append((action, reward, cont))
            carries.append(carry)
        action, reward, cont = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        return Trajectory(torch.stack(feats, dim=1), action, reward, cont, carry=stack_memories(carries))


class OracleAgent(Agent):
    """Knows the environments' states. Only what a guide reads is filtered from what they show."""

    def __init__(
        self,
        envs: VectorEnv,
        oracle: Oracle,
        explore: bool,
        generator: torch.Generator,
        precision: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        super().__init__(envs.num_envs, oracle, explore, generator, precision)
        self.envs = envs

    @torch.no_grad()
    def filter(self, rows: dict[str, Tensor]) -> None:
        """Take snapshots. Raise ``UserError`` where the environments cannot save their state."""
        try:
            snapshots = self.envs.snapshot()
        except UserError as error:
            raise UserError(
                f"model=simulator needs to save and restore {self.envs.name}, which cannot: {sentence(error)}"
            ) from error
        learned, dynamics = self.model.model, self.model.dynamics
        if learned is None:
            latent = State(torch.zeros(len(snapshots), 1), {})
        else:
            rows = {key: value.to(self.model.device) for key, value in rows.items()}
            before = dynamics.latent(self.state)
            with self.precision():
                latent = learned.obs_step(rows, rows["action"], rows["is_first"], before, self.generator)
        self.state = dynamics.grounded(latent, pack([pickle.dumps(array_state(s)) for s in snapshots]))


def pack(snapshots: list[bytes]) -> Tensor:
    """Bytes of different lengths as rows of one tensor."""
    longest = max(map(len, snapshots))
    rows = [len(s).to_bytes(8, "little") + s.ljust(longest, b"\0") for s in snapshots]
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).reshape(len(snapshots), -1)


def unpack(rows: Tensor) -> list[bytes]:
    """The inverse of :func:`pack`."""
    lengths = [int.from_bytes(row[:8].numpy().tobytes(), "little") for row in rows]
    return [row[8 : 8 + length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]
