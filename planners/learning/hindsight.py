"""Hindsight goals: frames that came later in the same episode of a training window, seen as goals are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from planners.base import LearnedModel
from worldmodels.common.columns import OBSERVATION_KEYS


def last_rows(is_first: Bool[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """Return for each row the last one of its episode in the window."""
    length = is_first.shape[1]
    place = torch.arange(length, device=is_first.device).expand_as(is_first)
    begins = torch.where(is_first, place, length)  # of episodes; the next one's, seen from each row:
    following = torch.cat([begins[:, 1:], torch.full_like(begins[:, :1], length)], dim=1)
    return following.flip(1).cummin(1).values.flip(1) - 1


def sample_future_rows(is_first: Bool[Tensor, "B T"], now: Int64[Tensor, "B N"], farthest: int) -> Int64[Tensor, "B N"]:
    """Draw rows uniformly from those after ``now`` in its episode, at most ``farthest`` on. Without any, the next.

    (The next then belongs to another episode, and nothing may be learned from it.)
    """
    length = is_first.shape[1]
    room = (last_rows(is_first).gather(1, now) - now).clamp(1, farthest)
    drawn = 1 + (torch.rand(now.shape, device=now.device) * room).long()
    return (now + drawn).clamp(max=length - 1)


def encode_goals(model: LearnedModel, batch: dict[str, Tensor], rows: Int64[Tensor, "B N"]) -> Float[Tensor, "B N G"]:
    """Return the latents of these rows' frames, as goals are seen."""
    each = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    seen = {key: batch[key][each, rows].flatten(0, 1) for key in OBSERVATION_KEYS if key in batch}
    return model.encode_goal(seen).unflatten(0, rows.shape)
