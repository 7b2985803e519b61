"""Hindsight goals: frames that came later in the same episode of a training window, seen as goals are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from planners.base import LearnedModel
from worldmodels.common.columns import LATER_PREFIX, LATER_ROWS, observed


def last_rows(is_first: Bool[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """Return for each row the last one of its episode in the window."""
    length = is_first.shape[1]
    place = torch.arange(length, device=is_first.device).expand_as(is_first)
    begins = torch.where(is_first, place, length)  # of episodes; the next one's, seen from each row:
    following = torch.cat([begins[:, 1:], torch.full_like(begins[:, :1], length)], dim=1)
    return following.flip(1).cummin(1).values.flip(1) - 1


def sample_future_rows(
    is_first: Bool[Tensor, "B T"],
    now: Int64[Tensor, "B N"],
    farthest: int,
    later_rows: Int64[Tensor, "B 1"] | None = None,
) -> Int64[Tensor, "B N"]:
    """Draw rows uniformly from those after ``now`` in its episode, at most ``farthest`` on. Without any, the next.

    (The next then belongs to another episode, and nothing may be learned from it.) ``later_rows`` counts the rows
    behind the window in its last episode, any distance on: T stands for the one of them that the batch holds.
    """
    length, last = is_first.shape[1], last_rows(is_first).gather(1, now)
    within = (last - now).clamp(max=farthest)
    behind = torch.zeros_like(now) if later_rows is None else later_rows * (last == length - 1)
    drawn = 1 + (torch.rand(now.shape, device=now.device) * (within + behind).clamp(min=1)).long()
    return torch.where((behind > 0) & (drawn > within), length, (now + drawn).clamp(max=length - 1))


def encode_goals(model: LearnedModel, batch: dict[str, Tensor], rows: Int64[Tensor, "B N"]) -> Float[Tensor, "B N G"]:
    """Return the latents of these rows' frames, as goals are seen. Row T is the one behind the window."""
    each = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    frames = {key: batch[key] for key in observed(batch)}
    if LATER_ROWS in batch:
        frames = {key: torch.cat([shown, batch[LATER_PREFIX + key]], dim=1) for key, shown in frames.items()}
    seen = {key: shown[each, rows].flatten(0, 1) for key, shown in frames.items()}
    return model.encode_goal(seen).unflatten(0, rows.shape)
