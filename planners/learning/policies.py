"""Distributions over one action, given a feature: what actors put out, and what a trained policy answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Memory, State
from worldmodels.common.options import Between, MoreThan, checked
from worldmodels.common.precision import wide
from worldmodels.errors import OptionError
from worldmodels.heads.base import Layers, Units
from worldmodels.nets.categorical import mix_uniform, straight_through
from worldmodels.nets.choices import Discrete, each, sizes_of
from worldmodels.nets.distributions import exponential
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle, init_linear_


class ActionDistribution(ABC):
    """Draws by transforming standard normal noise, so that whoever asks decides where randomness comes from.

    A *raw* action is what was drawn, an action what the environment is given of it.
    """

    @abstractmethod
    def draw(self, noise: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Return a raw action, through which gradients flow."""

    @abstractmethod
    def action(self, raw: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Return the action that a raw one stands for: in [-1, 1], or one-hot."""

    @abstractmethod
    def mode(self) -> Float[Tensor, "... A"]:
        """Return the action taken where nothing is to be explored."""

    def choose(self, noise: Float[Tensor, "... A"] | None) -> Float[Tensor, "... A"]:
        """An action drawn with ``noise``, or the mode where there is none."""
        return self.mode() if noise is None else self.action(self.draw(noise))

    @abstractmethod
    def log_prob(self, raw: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """Return the log-density (or log-probability) of a raw action."""

    @abstractmethod
    def entropy(self, raw: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """Return the entropy in nats. Where it has no closed form, return the estimate from the draw ``raw``."""

    def raw_entropy(self, raw: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """Return that of raw actions, before whatever squashes them: mostly the same."""
        return self.entropy(raw)


@dataclass(frozen=True)
class BoundedNormal(ActionDistribution):
    """Normal with its mean in [-1, 1] and bounds on its deviation (DreamerV3's continuous actor). Draws are clamped.

    The density is that of the draw before clamping, which is what REINFORCE needs: clamping belongs to the world.
    """

    mean: Float[Tensor, "... A"]
    std: Float[Tensor, "... A"]

    @override
    def draw(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.mean, self.std, noise)

    def action(self, raw: Tensor) -> Tensor:
        """Clamp to the box."""
        return raw.clamp(-1, 1)

    @override
    def mode(self) -> Tensor:
        return self.mean

    @override
    def log_prob(self, raw: Tensor) -> Tensor:
        return _normal_log_prob((raw - self.mean) / self.std, self.std.log())

    @override
    def entropy(self, raw: Tensor) -> Tensor:
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


@dataclass(frozen=True)
class SquashedNormal(ActionDistribution):
    """Normal under tanh (SAC, and TD-MPC2's policy). Nothing needs clamping, and the density counts the squashing."""

    mean: Float[Tensor, "... A"]
    log_std: Float[Tensor, "... A"]

    @override
    def draw(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    @override
    def action(self, raw: Tensor) -> Tensor:
        return raw.tanh()

    @override
    def mode(self) -> Tensor:
        return self.mean.tanh()

    def log_prob(self, raw: Tensor) -> Tensor:
        """Return the density of the squashed action, as a function of the raw one."""
        log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))  # of tanh, finite where the slope itself is 0
        return -self.raw_entropy(raw) - log_slope.sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        """Return the negative log-density of the draw."""
        return -self.log_prob(raw)

    def raw_entropy(self, raw: Tensor) -> Tensor:
        """Return the negative log-density of the draw before tanh."""
        return -_normal_log_prob((raw - self.mean) / self.log_std.exp(), self.log_std)


@dataclass(frozen=True)
class OneHot(ActionDistribution):
    """Discrete actions with a uniform share, straight-through: one choice, or several that are drawn by themselves."""

    log_probs: Float[Tensor, "... A"]
    sizes: tuple[int, ...]
    """Of the one-hots."""

    def draw(self, noise: Tensor) -> Tensor:
        """Return the classes that win an exponential race, which is a draw from the probabilities."""
        return self._one_hots(self.log_probs - exponential(noise).log())

    @override
    def action(self, raw: Tensor) -> Tensor:
        return raw

    @override
    def mode(self) -> Tensor:
        return self._one_hots(self.log_probs)

    def _one_hots(self, score: Tensor) -> Tensor:
        return each(
            lambda part, probs: straight_through(part.argmax(-1), probs), self.sizes, score, self.log_probs.exp()
        )

    @override
    def log_prob(self, raw: Tensor) -> Tensor:
        return (self.log_probs * raw.detach()).sum(-1)

    @override
    def entropy(self, raw: Tensor) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


POLICY_GIVEN = ("feat_dim", "action_dim", "discrete", "squash", "style")
"""Arguments that a planner gives its policy's network itself."""


class PolicyNetwork(nn.Module):
    """A network from features to :class:`ActionDistribution`.

    Box actions are bounded (``squash=False``) or under tanh.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        discrete: Discrete,
        units: Units,
        layers: Layers,
        squash: bool = False,
        unimix: Annotated[float, Between(0, 1), "Discrete actions: share of the probability that is uniform"] = 0.01,
        min_std: Annotated[float, MoreThan(0), "Box actions: least deviation, before tanh where there is one"] = 0.1,
        max_std: Annotated[float, MoreThan(0), "Box actions: greatest deviation"] = 1.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if min_std > max_std:
            raise OptionError("min_std", min_std, f"must be at most max_std={max_std}")
        self.sizes, self.squash, self.unimix = sizes_of(action_dim, discrete), squash, unimix
        self.min_std, self.max_std = min_std, max_std
        self.net = MLP(feat_dim, units, layers, style=style)
        self.out = nn.ModuleDict(
            {
                name: init_linear_(nn.Linear(self.net.out_dim, action_dim), 0.01, style)
                for name in (("logits",) if discrete else ("mean", "spread"))
            }
        )

    def forward(self, feat: Float[Tensor, "... F"]) -> ActionDistribution:
        """Return the distribution over the next action. It is fp32 whatever the network computes in."""
        hidden = self.net(feat)
        raw = [wide(out(hidden)) for out in self.out.values()]
        if self.sizes:
            return OneHot(each(lambda part: mix_uniform(part, self.unimix), self.sizes, *raw), self.sizes)
        mean, spread = raw
        if self.squash:  # TD-MPC2: the deviation's logarithm moves between its bounds
            low, high = math.log(self.min_std), math.log(self.max_std)
            return SquashedNormal(mean, low + 0.5 * (high - low) * (spread.tanh() + 1))
        least = torch.tensor(self.min_std, dtype=torch.float64)  # a number, wherever the others are
        std = torch.add(least, torch.sigmoid(spread + 2), alpha=self.max_std - self.min_std)
        return BoundedNormal(mean.tanh(), std)


@dataclass(frozen=True)
class SampledPolicy:
    """Draws from a policy while imagining. Its carry is the raw action, which a policy gradient needs."""

    policy: Callable[[Tensor], ActionDistribution]
    action_dim: int

    def initial(self, n: int) -> Memory:
        """Return an empty carry."""
        return {}

    def __call__(self, state: State, carry: Memory, noise: Tensor | None) -> tuple[Float[Tensor, "N A"], Memory]:
        """Draw with ``noise`` [N, A], or where there is none with numbers of the global stream."""
        actions = self.policy(state.feat)
        if noise is None:
            noise = torch.randn(len(state.feat), self.action_dim, device=state.feat.device)
        raw = actions.draw(noise)
        return actions.action(raw), {"raw": raw}


def _normal_log_prob(unit: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * unit.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
