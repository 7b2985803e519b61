"""Random sequences, and what a test does with a backbone: filter, observe, imagine, compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamics.base import Dynamics, Rollout, State

BATCH, EMBED, ACTION = 3, 7, 2
LONG = 64
"""Steps of the longest sequences: every chunk of a parallel scan has others before and after it."""


def randomize(module: nn.Module, seed: int = 1, scale: float = 0.2) -> nn.Module:
    """Add noise to every parameter, so that nothing is zero or one by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


@dataclass(frozen=True)
class Sequences:
    """Arguments of ``observe``: [B, T, E], [B, T, A], [B, T]."""

    embed: Tensor
    action: Tensor
    reset: Tensor

    def __getitem__(self, index) -> Sequences:
        return Sequences(self.embed[index], self.action[index], self.reset[index])

    def clone(self) -> Sequences:
        """Tensors of its own."""
        return Sequences(self.embed.clone(), self.action.clone(), self.reset.clone())

    def frame(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments of ``obs_step`` at step ``t``."""
        return self.embed[:, t], self.action[:, t], self.reset[:, t]


def sequences(length: int, seed: int = 0, share: float = 0.2) -> Sequences:
    """Draw random sequences. ``share`` of the frames are resets: row 0 begins with one, row 1 does not."""
    generator = torch.Generator().manual_seed(seed)
    reset = torch.rand(BATCH, length, generator=generator) < share
    reset[0, 0], reset[1, 0] = share > 0, False
    return Sequences(
        torch.randn(BATCH, length, EMBED, generator=generator),
        torch.rand(BATCH, length, ACTION, generator=generator) * 2 - 1,
        reset,
    )


def observe(dynamics: Dynamics, data: Sequences, state: State) -> tuple[Rollout, State]:
    """All steps at once."""
    return dynamics.observe(data.embed, data.action, data.reset, state)


def filtered(dynamics: Dynamics, data: Sequences, state: State) -> list[State]:
    """The states after each frame, one frame at a time, as while acting."""
    states = []
    for t in range(data.reset.shape[1]):
        state = dynamics.obs_step(*data.frame(t), state)
        states.append(state)
    return states


def warm(dynamics: Dynamics, seed: int = 9) -> State:
    """A state that is not the initial one."""
    return filtered(dynamics, sequences(3, seed, share=0.0), dynamics.initial(BATCH))[-1]


def imagined(dynamics: Dynamics, state: State, seed: int = 5) -> Tensor:
    """Return features [N, 4, F] of the state and three imagined steps. Equal rows of states take equal actions."""
    actions = torch.rand(3, ACTION, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    feats = [state.feat]
    for action in actions:
        state = dynamics.img_step(action.expand(len(state.feat), -1), state)
        feats.append(state.feat)
    return torch.stack(feats, dim=1)


def assert_close(a: Tensor, b: Tensor) -> None:
    """Equal within 1e-5, whatever their size."""
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def assert_same_state(dynamics: Dynamics, a: State, b: State) -> None:
    """States from which the same is imagined."""
    assert_close(imagined(dynamics, a), imagined(dynamics, b))


def per_step(rollout: Rollout) -> dict[str, Tensor]:
    """Everything of a rollout that is indexed [B, T]."""
    return {"feat": rollout.feat, "post": rollout.post, **rollout.stats}
