"""Whether a backbone filters histories that are longer than any it was trained on as well as those it was."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.base import KL
from worldmodels.model import WorldModel


@dataclass(frozen=True)
class Surprise:
    """KL of posterior and prior in nats, by step of the episode, the mean over episodes."""

    carried: Float[Tensor, " T"]
    """With the memory of the whole episode, as in acting."""
    restarted: Float[Tensor, " T"]
    """With that of the end of a training window alone."""
    length: int
    """Rows of a training window."""

    @property
    def ratio(self) -> float:
        """Mean behind the first window, carried over restarted: 1 where long histories do no harm."""
        return (self.carried[self.length :].mean() / self.restarted[self.length :].mean()).item()


@torch.no_grad()
def surprise(model: WorldModel, episodes: dict[str, Tensor], length: int) -> Surprise | None:
    """Filter whole episodes [N, T, ...] twice. None for a backbone without a prior.

    Restarted windows overlap by half, and each row is taken from the half that has the longer history.
    """
    half, total = length // 2, episodes["action"].shape[1] // length * length
    rows = {key: value[:, :total] for key, value in episodes.items()}
    rows["reset"] = torch.zeros_like(rows["is_first"])
    rows["reset"][:, 0] = True
    state, parts = model.initial(len(rows["action"])), []
    for begin in range(0, total, length):
        rollout, state, _ = model.observe({key: value[:, begin : begin + length] for key, value in rows.items()}, state)
        parts.append(model.dynamics.metrics(rollout).get(KL))
    if parts[0] is None:
        return None
    carried = torch.cat(parts, dim=1)
    restarted = carried.clone()
    for begin in sorted({*range(half, total - length + 1, half), total - length}):  # the last ends where episodes do
        window = {key: value[:, begin : begin + length].clone() for key, value in rows.items()}
        window["reset"][:, 0] = True
        rollout, _, _ = model.observe(window, model.initial(len(window["action"])))
        restarted[:, begin + half : begin + length] = model.dynamics.metrics(rollout)[KL][:, half:]
    return Surprise(carried.mean(0).cpu(), restarted.mean(0).cpu(), length)
