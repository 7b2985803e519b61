"""Card of a recorded dataset, written beside it: numbers, a histogram of returns, and clips to look at."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from matplotlib.figure import Figure

from worldmodels.common.figures import blank_figure
from worldmodels.common.files import Report
from worldmodels.common.frames import enlarge, gif_bytes, last_frame
from worldmodels.data.replay import Replay

CLIPS, CLIP_ROWS = 4, 100
"""Episodes that are shown, and how much of each at most."""


def write_card(folder: Path, what: dict[str, Any]) -> dict[str, Any]:
    """Write ``card.json``, ``card.md``, ``returns.png`` and, with pixels, ``clips.gif`` into a dataset's folder.

    ``what`` says where it comes from: environment, policy, seed. An episode that the recording cut off counts as rows
    but not among the returns.
    """
    replay = Replay.open(folder, cross_resets=False)
    found = episodes(replay)
    whole = [rows for rows in found if rows["is_last"][-1]]
    returns = [float(rows["reward"].sum()) for rows in whole]
    lengths = [len(rows["reward"]) - 1 for rows in whole]
    card = what | {
        "rows": len(replay),
        "decisions": len(replay) - len(found),
        "episodes": len(whole),
        "unfinished_episodes": len(found) - len(whole),
        "decisions_per_episode": summary(lengths),
        "returns": summary(returns),
        "columns": {key: [list(shape), str(kind)] for key, (shape, kind) in replay.layout.spec.items()},
    }
    Report(folder, "card", card, text(card), draw_returns(returns), figure_name="returns").write()
    drawn = [rows["pixels"] for rows in whole if "pixels" in rows]
    if drawn:
        (folder / "clips.gif").write_bytes(gif_bytes(clips(drawn)))
    return card


def episodes(replay: Replay) -> list[dict[str, torch.Tensor]]:
    """All of them, in the order they were recorded, without the pixels of more than are shown."""
    found = []
    for number, (first, length, env) in enumerate(replay.episode_spans()):
        if number == CLIPS:
            replay.restrict([key for key in replay.layout.spec if "pixels" not in key])
        found.append(replay.episode_from(first, length, env))
    return found


def summary(numbers: list[float] | list[int]) -> dict[str, float]:
    """Return mean, deviation and range. Nothing has none."""
    if not numbers:
        return {}
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.pstdev(numbers),
        "least": min(numbers),
        "most": max(numbers),
    }


def text(card: dict[str, Any]) -> str:
    """The card as people read it."""
    lines = ["# Dataset", ""]
    for key, value in card.items():
        if key == "columns":
            value = ", ".join(f"{name} {kind.removeprefix('torch.')} {shape}" for name, (shape, kind) in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {number:.1f}" for name, number in value.items()) or "none"
        lines.append(f"- **{key.replace('_', ' ')}**: {value}")
    return "\n".join([*lines, "", "![returns](returns.png)"])


def draw_returns(returns: list[float]) -> Figure:
    """How many episodes had which return."""
    figure = blank_figure(5, 2.8)
    axes = figure.add_subplot(xlabel="return of an episode", ylabel="episodes")
    axes.hist(returns, bins=min(30, max(1, len(returns))))
    return figure


def clips(drawn: list[torch.Tensor]) -> UInt8[np.ndarray, "T H W 3"]:
    """Set the first episodes side by side. One that is over stands still."""
    shown = [last_frame(frames[:CLIP_ROWS]) for frames in drawn]
    longest = max(len(frames) for frames in shown)
    padded = [torch.cat([frames, frames[-1:].expand(longest - len(frames), -1, -1, -1)]) for frames in shown]
    frames = rearrange(torch.stack(padded), "n t c h w -> t h (n w) c").numpy()
    return np.stack([enlarge(frame, 128) for frame in frames])
