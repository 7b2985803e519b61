"""Encoder of observations that show a goal too, to embeddings of both. It also presents frames as goals are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from typing_extensions import override

from worldmodels.common.columns import GOAL_PREFIX, cameras
from worldmodels.common.host import send
from worldmodels.errors import OptionError
from worldmodels.nets.encoders import Encoder, ObservationSpec


class GoalEncoder(nn.Module):
    """An encoder of observations for those that hold a goal too: embeddings [2, *E], of the present and of the goal.

    Args:
        encoder: of either.
        observations: what there is, the goal's too.
        goal_zero_indices: numbers of the state that are 0 in every goal, such as velocities.
    """

    def __init__(self, encoder: Encoder, observations: ObservationSpec, goal_zero_indices: Sequence[int] = ()) -> None:
        super().__init__()
        self.encoder, self.observations, self.zeroed = encoder, dict(observations), list(goal_zero_indices)
        self.embed_shape = (2, *encoder.embed_shape)
        numbers = math.prod(observations["state"][0]) if "state" in observations else 0
        if "state" in observations and not all(0 <= number < numbers for number in self.zeroed):
            raise OptionError("goal_zero_indices", self.zeroed, f"names numbers of a state that has only {numbers}")

    @override
    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "..."]:
        return torch.stack([self.encoder(obs), self._embed_goals(obs)], dim=-len(self.embed_shape))

    def augment(self, obs: dict[str, Tensor], generator: Generator | None = None) -> dict[str, Tensor]:
        """Return observations as the encoder augments them. Goals stay as they are shown."""
        return self.encoder.augment(obs, generator)

    def _embed_goals(self, obs: dict[str, Tensor]) -> Float[Tensor, "... E"]:
        """Each goal once, however many rows in succession show it."""
        shapes = {key: self.observations[key][0] for key in obs if key.startswith(GOAL_PREFIX)}
        goals = {key: obs[key].reshape(-1, *shape) for key, shape in shapes.items()}
        changes = [(shown[1:] != shown[:-1]).flatten(1).any(1) for shown in goals.values()]
        new = F.pad(torch.stack(changes).any(0), (1, 0), value=True)
        embed = self.encoder({key.removeprefix(GOAL_PREFIX): shown[new] for key, shown in goals.items()})
        key, shape = next(iter(shapes.items()))
        return embed[new.cumsum(0) - 1].unflatten(0, obs[key].shape[: -len(shape)])

    def as_goal(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Present frames as goals are shown: at rest, and a stack as its newest frame repeated."""
        shown = dict(obs)
        for key in cameras(obs):
            newest, frames = obs[key][..., -3:, :, :], obs[key].shape[-3] // 3
            shown[key] = torch.cat([newest] * frames, dim=-3)
        if "state" in obs and self.zeroed:
            shown["state"] = obs["state"].index_fill(-1, send(torch.tensor(self.zeroed), obs["state"].device), 0.0)
        return shown


def without_goal(observations: ObservationSpec) -> ObservationSpec:
    """Return the part of the observations that shows the present."""
    return {key: value for key, value in observations.items() if not key.startswith(GOAL_PREFIX)}
