"""Scores of what a trained world model recalls of held-out episodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodels.common.batch import split_context
from worldmodels.envs.recall import DARK, SHOWN, WALL
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import pixels_to_float
from worldmodels.recall.report import TASKS
from worldmodels.visualization.imagination import OpenLoop, draw_strip

STEPS_AT_ONCE = 16_000
"""Frames scored at a time, about."""


def score(model: WorldModel, batch: dict[str, Tensor], delay: int) -> tuple[dict[str, float], Any]:
    """Accuracies on held-out episodes, and a picture of what is imagined behind the doors in the first of them."""
    torch.manual_seed(0)
    _, batch = split_context(batch, 0)
    generator = torch.Generator().manual_seed(0)
    episodes, length = batch["action"].shape[:2]
    step = max(4, STEPS_AT_ONCE // length)
    parts = [
        recalled(model, {key: value[n : n + step] for key, value in batch.items()}, delay, generator)
        for n in range(0, episodes, step)
    ]
    hits = {task: torch.cat([_shares(part[0][task]) for part in parts]) for task in TASKS}
    return {task: hit.mean().item() for task, hit in hits.items()}, draw_strip(parts[0][1], 4, 1)


def _shares(hit: Tensor) -> Tensor:
    """Return how much of each episode [N, ...] is right [N]."""
    return hit.reshape(len(hit), -1).float().mean(1)


@torch.no_grad()
def recalled(
    model: WorldModel, batch: dict[str, Tensor], delay: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], OpenLoop]:
    """Score a model by task, episodes first. Also return a clip of the last frames it sees and those it imagines."""
    doors, n, truth = SHOWN + delay, len(batch["action"]), pixels_to_float(batch["pixels"])

    def imagine(context: int, steps: int) -> tuple[Tensor, Tensor]:
        seen = {key: value[:, :context] for key, value in batch.items()}
        rollout, state, _ = model.observe(seen, model.initial(n))
        future = model.imagine(state, batch["action"][:, context : context + steps], steps, generator)
        frames = model.decode(torch.cat([rollout.post[:, -4:], future.feat[:, 1:]], dim=1))["pixels"]
        return future.reward, frames

    dark = model.observe(batch, model.initial(n))[0].post[:, doors : doors + 2].clone()
    inferred = model.heads["reward"](dark, batch["action"][:, doors + 1 : doors + 2])[:, 0]
    imagined, frames = imagine(doors + 1, 2)
    half = SHOWN + (delay + 1) // 2
    _, hall = imagine(half, delay // 2)
    earned = batch["reward"][:, doors + 1] > 0.5
    lit = (WALL + DARK) / 2 / 255
    hits = {
        "imagined": (imagined[:, 0] > 0.5) == earned,
        "inferred": (inferred > 0.5) == earned,
        "room": greener(frames[:, -1]) == greener(truth[:, -1]),
        "hall": (hall[:, 4:] > lit) == (truth[:, half : half + delay // 2] > lit),
    }
    return hits, OpenLoop(truth[:4, doors - 3 : doors + 3], frames[:4], context=4)


def greener(room: Tensor) -> Tensor:
    """Which quarters [N, 2, 2] of images of a room [N, 3, S, S] are green rather than red."""
    half = room.shape[-1] // 2
    quarters = room.unflatten(-1, (2, half)).unflatten(-3, (2, half)).mean((-1, -3))
    return quarters[:, 1] > quarters[:, 0]
