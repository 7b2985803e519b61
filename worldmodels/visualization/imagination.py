"""Pictures of imagination, for TensorBoard and for files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from dynamics.base import State
from worldmodels.common.columns import PIXELS
from worldmodels.common.figures import blank_figure
from worldmodels.common.frames import border, enlarge, last_frame, to_uint8
from worldmodels.common.randomness import own_randomness
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import pixels_to_float

SEES, IMAGINES = (60, 200, 60), (220, 60, 60)
"""Border colours: green while the model sees the frames, red once it only imagines."""


@dataclass(frozen=True)
class OpenLoop:
    """Truth and imagination side by side: ``context`` frames seen, the rest imagined from actions alone."""

    truth: Float[Tensor, "B T C H W"]
    model: Float[Tensor, "B T C H W"]
    context: int

    def error(self) -> Float[Tensor, " K"]:
        """Mean squared image error of each imagined step."""
        return (self.model - self.truth)[:, self.context :].square().mean((0, 2, 3, 4))


@torch.no_grad()
def open_loop(
    model: WorldModel,
    batch: dict[str, Tensor],
    state: State,
    context: int,
    imag_horizon: int,
    generator: torch.Generator | None = None,
    camera: str = PIXELS,
) -> OpenLoop:
    """Filter ``context`` frames, then imagine ``imag_horizon`` steps with the actions that were taken.

    Nothing of a frame after the context is read but for comparison. With a ``generator`` the global random stream stays
    where it is, although filtering draws from it: looking must not change what is learned next.
    """
    seen = {key: value[:, :context] for key, value in batch.items()}
    with own_randomness(generator):
        rollout, state, _ = model.observe(seen, state)
    actions = batch["action"][:, context : context + imag_horizon]
    imagined = model.imagine(state, actions, imag_horizon, generator).feat[:, 1:]
    frames = last_frame(model.decode(torch.cat([rollout.feat, imagined], dim=1))[camera])
    truth = pixels_to_float(last_frame(batch[camera][:, : context + imag_horizon]))
    return OpenLoop(truth, frames, context)


def rows_of(clip: OpenLoop) -> UInt8[np.ndarray, "B 3 T H W 3"]:
    """Truth, model and absolute error of every window and step, bordered."""
    error = (clip.model - clip.truth).abs()
    images = to_uint8(torch.stack([clip.truth, clip.model, error], dim=1))
    images = rearrange(images, "b r t c h w -> b r t h w c")
    colors = [SEES if t < clip.context else IMAGINES for t in range(images.shape[2])]
    return np.stack([[[border(im, c) for im, c in zip(row, colors, strict=True)] for row in b] for b in images])


def draw_clips(clip: OpenLoop, windows: int = 4) -> UInt8[np.ndarray, "T H W 3"]:
    """Animate a column a window, with truth above model above error."""
    frames = rearrange(rows_of(clip)[:windows], "b r t h w c -> t (r h) (b w) c")
    return np.stack([enlarge(frame, 3 * 128) for frame in frames])


def draw_strip(clip: OpenLoop, windows: int = 2, every: int = 3) -> UInt8[np.ndarray, "H W 3"]:
    """Still: time to the right, for each window truth above model above error."""
    return enlarge(rearrange(rows_of(clip)[:windows, :, ::every], "b r t h w c -> (b r h) (t w) c"), 3 * 64 * windows)


def draw_errors(curves: dict[str, Float[Tensor, " K"]]) -> Figure:
    """Mean squared image error against the imagined step."""
    figure = blank_figure(5, 3.2)
    axes = figure.add_subplot(xlabel="decisions imagined", ylabel="mean squared image error")
    for name, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), torch.as_tensor(curve).cpu(), label=name)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_returns(frames: list[int], returns: list[float], levels: dict[str, float], smooth: int = 5) -> Figure:
    """Returns of the training episodes against frames, their running mean, and what needs no learning as lines."""
    figure = blank_figure(5, 3.2)
    axes = figure.add_subplot(xlabel="environment frames", ylabel="return of a training episode")
    axes.plot(frames, returns, ".", alpha=0.4, color="tab:blue")
    means = [float(np.mean(returns[max(0, i - smooth + 1) : i + 1])) for i in range(len(returns))]
    last_frame = dict(zip(frames, means, strict=True))  # environments end their episodes at the same frame
    axes.plot(last_frame.keys(), last_frame.values(), color="tab:blue", label=f"mean of {smooth}")
    for (name, level), color in zip(levels.items(), ("tab:green", "tab:orange", "tab:red", "tab:gray"), strict=False):
        axes.axhline(level, linestyle="--", linewidth=1, color=color, label=name)
    axes.set_ylim(bottom=min(0, *returns))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=1 + len(levels), frameon=False)
    return figure
