"""Worlds that are known exactly, with the interface of a world model, so that planners can be held to the truth."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from dynamics.base import FeatureSpec, State, stack_memories
from dynamics.goal import split_goal
from worldmodels.model import Trajectory, as_policy


class TrueModel:
    """Imagines by ``step(feat, action) -> feat, reward, cont`` and keeps what it was asked."""

    feat_dim: int
    goal_dim: int = 0
    action_dim: int
    discrete: bool
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.dynamics = SimpleNamespace(
            fork=self._fork, select=lambda state, rows: state.map(lambda x: x[rows]), gradient="exact"
        )
        self.heads: dict = {}
        self.asked: list[Tensor] = []
        self.forks: list[int] = []

    @property
    def feature_spec(self) -> FeatureSpec:
        return FeatureSpec(self.feat_dim - self.goal_dim, self.goal_dim)

    def _fork(self, state: State, n: int) -> State:
        self.forks.append(n)
        return state.map(lambda x: x.repeat_interleave(n, dim=0))

    def decode(self, feat: Tensor) -> dict[str, Tensor]:
        return {}

    def encode_goal(self, obs: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def initial(self, n: int) -> State:
        return State(torch.zeros(n, self.feat_dim), {})

    def step(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def imagine(self, state: State, policy, imag_horizon: int, generator=None, noise=None, frozen=False) -> Trajectory:
        assert frozen or not torch.is_grad_enabled()
        if isinstance(policy, Tensor):
            assert policy.shape == (len(state.feat), imag_horizon, self.action_dim)
            self.asked.append(policy.detach().clone())
        feats, actions, rewards, conts, carries = [state.feat], [], [], [], []
        policy, noise = as_policy(policy, noise)
        carry = policy.initial(len(state.feat))
        for t in range(imag_horizon):
            action, carry = policy(State(feats[-1], {}), carry, None if noise is None else noise[:, t])
            actions.append(action)
            carries.append(carry)
            feat, reward, cont = self.step(feats[-1], actions[-1])
            feats.append(feat)
            rewards.append(reward)
            conts.append(cont)
        imagined = (torch.stack(x, 1) for x in (feats, actions, rewards, conts))
        return Trajectory(*imagined, carry=stack_memories(carries))


class LinearGaussian(TrueModel):
    """x' = A x + B u with reward -|x'|^2 - cost |u|^2: the mean of a linear-Gaussian world with a known best plan."""

    feat_dim, action_dim, discrete = 3, 2, False

    def __init__(self, cost: float = 0.1) -> None:
        super().__init__()
        self.a = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.9, 0.2], [0.0, 0.0, 0.8]])
        self.b = torch.tensor([[0.0, 0.2], [0.4, 0.0], [0.0, 0.5]])
        self.cost = cost

    def start(self, n: int, scale: float = 0.5) -> State:
        generator = torch.Generator().manual_seed(7)
        feat = torch.randn(n, self.feat_dim, generator=generator) * scale
        return State(feat, {"x": feat.clone()})

    def step(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feat = feat @ self.a.T + action @ self.b.T
        reward = -feat.square().sum(1) - self.cost * action.square().sum(1)
        return feat, reward, torch.ones_like(reward)

    def regulator(self, gamma: float) -> tuple[Tensor, Tensor]:
        """Gain K and value P of the best policy without the box: ``u = -K x`` earns ``-x P x``, by Riccati."""
        a, b = self.a.double() * gamma**0.5, self.b.double() * gamma**0.5
        value = torch.zeros(3, 3).double()
        for _ in range(2000):
            cost = value + torch.eye(3).double() / gamma  # of the state that an action leads to, and of all after it
            gain = torch.linalg.solve(b.T @ cost @ b + self.cost * torch.eye(2).double(), b.T @ cost @ a)
            closed = a - b @ gain
            value = closed.T @ cost @ closed + self.cost * gain.T @ gain
        return gain.float(), value.float()

    def best_plan(self, feat: Tensor, length: int, gamma: float, box: bool = True) -> Tensor:
        """The best plan [N, length, A] with actions in [-1, 1], or with any actions, in float64.

        Without the box by least squares; with it by accelerated gradients that are projected onto it, from there.
        """
        a, b, x = self.a.double(), self.b.double(), feat.double()
        rows, targets = [], []
        power = [torch.linalg.matrix_power(a, k) for k in range(length + 1)]
        for t in range(length):
            weight = gamma ** (t / 2)
            row = torch.cat([power[t - k] @ b if k <= t else torch.zeros_like(b) for k in range(length)], dim=1)
            rows.append(weight * row)
            targets.append(-weight * (power[t + 1] @ x.T))
        effort = torch.cat([torch.full((2,), gamma ** (t / 2)) for t in range(length)]).double() * self.cost**0.5
        rows.append(torch.diag(effort))
        targets.append(torch.zeros(2 * length, len(x)).double())
        matrix, target = torch.cat(rows), torch.cat(targets)
        plan = torch.linalg.lstsq(matrix, target).solution
        if box:
            plan = boxed_least_squares(matrix, target, plan)
        return plan.T.reshape(len(x), length, 2).float()


def boxed_least_squares(matrix: Tensor, target: Tensor, first: Tensor, iterations: int = 3000) -> Tensor:
    """The ``x`` in [-1, 1] of the least ``|matrix x - target|`` (FISTA, Beck and Teboulle 2009)."""
    square, image = matrix.T @ matrix, matrix.T @ target
    rate = 1 / torch.linalg.eigvalsh(square)[-1]
    x = ahead = first.clamp(-1, 1)
    momentum = 1.0
    for _ in range(iterations):
        before, x = x, (ahead - rate * (square @ ahead - image)).clamp(-1, 1)
        momentum, last = (1 + (1 + 4 * momentum**2) ** 0.5) / 2, momentum
        ahead = x + (last - 1) / momentum * (x - before)
    return x


class Chain(TrueModel):
    """Cells 0..goal: left, stay or right; arriving at the goal gives 1 and ends, beyond it lies a ``lure`` a step.

    Arriving in cell 0 gives ``crumb``. Box actions go left below -1/3 and right above 1/3.
    """

    feat_dim = 1

    def __init__(self, goal: int = 6, crumb: float = 0.02, discrete: bool = True, lure: float = 100.0) -> None:
        super().__init__()
        self.goal, self.crumb, self.discrete, self.lure = goal, crumb, discrete, lure
        self.action_dim = 3 if discrete else 1

    def at(self, *cells: int) -> State:
        feat = torch.tensor(cells, dtype=torch.float32)[:, None]
        return State(feat, {"x": feat.clone()})

    def actions(self, moves: Tensor) -> Tensor:
        """Moves in {-1, 0, 1} as actions."""
        if self.discrete:
            return torch.nn.functional.one_hot(moves.long() + 1, 3).float()
        return moves[..., None].float()

    def step(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        move = action.argmax(1) - 1.0 if self.discrete else (action[:, 0] * 1.5).round().clamp(-1, 1)
        before = feat[:, 0]
        after = torch.where(before >= self.goal, before + 1, (before + move).clamp(0, self.goal))
        reward = (after == self.goal).float() + self.lure * (after > self.goal) + self.crumb * (after == 0)
        reward = reward + 0.0 * action.sum(1)  # a gradient, if none that says anything
        return after[:, None], reward, (after != self.goal).float()

    def value(self, gamma: float):
        """The value of heading straight for the goal, from feat [N, 1]."""
        return lambda feat: gamma ** (self.goal - 1 - feat[:, 0])


class WithGoal(TrueModel):
    """Another of these worlds, each state with the latent of a goal behind it, which stays as it is."""

    def __init__(self, world: TrueModel) -> None:
        super().__init__()
        self.world, self.goal_dim, self.feat_dim = world, world.feat_dim, 2 * world.feat_dim
        self.action_dim, self.discrete = world.action_dim, world.discrete

    def with_goal(self, state: State, goal: Tensor) -> State:
        """Its states with these goals."""
        return State(torch.cat([state.feat, goal], dim=-1), state.memory)

    def step(self, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        now, goal = split_goal(feat, self.goal_dim)
        led, reward, cont = self.world.step(now, action)
        return torch.cat([led, goal], dim=-1), reward, cont
