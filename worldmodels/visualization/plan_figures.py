"""Pictures of what a planner has in mind: its plan beside what then happened, what it chose from, values on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from dynamics.base import Memory, State
from planners.base import PlanInfo, Planner
from planners.learning.learner import Learner
from planners.streams import RowStreams
from worldmodels.agent import Agent
from worldmodels.common import precision
from worldmodels.common.figures import blank_figure, write_figure
from worldmodels.common.frames import border, enlarge, gif_bytes, last_frame, to_uint8
from worldmodels.envs.vector import held_out_envs
from worldmodels.model import Trajectory, WorldModel
from worldmodels.nets.encoders import pixels_to_float
from worldmodels.runs.loading import Run
from worldmodels.visualization.imagination import IMAGINES, SEES

BEFORE = 20
"""Decisions before the plan that is looked at."""
DRAWN = 64
"""Candidates drawn, spread evenly over their ranks."""


@dataclass(frozen=True)
class PlanPreview:
    """A plan of one environment, what the model imagines of it, and what is expected on the way."""

    info: PlanInfo
    imagined: Trajectory
    values: Float[Tensor, " H1"]


@torch.no_grad()
def preview_plan(
    model: WorldModel, planner: Planner, state: State, memory: Memory, generator: torch.Generator
) -> PlanPreview | None:
    """Return the plan of a planner in one state (one row), or None where it imagines nothing."""
    info = planner.inspect(model, state, memory, generator)
    if info is None:
        return None
    imagined = model.imagine(state, info.plan, info.plan.shape[1], generator)
    return PlanPreview(info, imagined, values_along(planner, imagined, generator))


def values_along(planner: Planner, imagined: Trajectory, generator: torch.Generator) -> Float[Tensor, " H1"]:
    """Value of each imagined state: the learned one, or else the rewards still to come in the plan."""
    if isinstance(planner.trainable, Learner):
        feat = imagined.feat[:1]
        return planner.trainable.value(feat, RowStreams.seeded(1, generator, feat.device))[0]
    alive = torch.cat([torch.ones_like(imagined.cont[0, :1]), imagined.cont[0].cumprod(0)[:-1]])
    to_come = (alive * imagined.reward[0]).flip(0).cumsum(0).flip(0)
    return torch.cat([to_come, torch.zeros_like(to_come[:1])])


def frames_of(model: WorldModel, preview: PlanPreview) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode the imagined plan. The first frame, which is filtered and not imagined, has another border."""
    decoded = last_frame(model.decode(preview.imagined.feat)["pixels"][0])
    frames = rearrange(to_uint8(decoded), "t c h w -> t h w c")
    colors = [SEES] + [IMAGINES] * (len(frames) - 1)
    bordered = [border(frame, color) for frame, color in zip(frames, colors, strict=True)]
    return np.stack([enlarge(frame) for frame in bordered])


def draw_plan(preview: PlanPreview, happened: list[float] | None = None) -> Figure:
    """Draw candidates coloured by value with the plan over them, a panel an action's number.

    Values and rewards are drawn below.
    """
    plan = preview.info.plan[0].cpu()
    shown = min(plan.shape[1], 3)
    figure = blank_figure(3.2 * (shown + 1), 2.8)
    axes = figure.subplots(1, shown + 1)
    steps = np.arange(len(plan))
    for number, panel in enumerate(axes[:shown]):
        if preview.info.candidates is not None:
            lines, values = candidates_of(preview.info, number)
            panel.add_collection(collection := LineCollection(lines, array=values, cmap="viridis", linewidths=0.8))
            if number == shown - 1:
                figure.colorbar(collection, ax=panel, label="value")
        panel.plot(steps, plan[:, number], color="tab:red", linewidth=2, label="plan")
        panel.set(xlabel="decisions ahead", title=f"action {number + 1} of {plan.shape[1]}", ylim=(-1.05, 1.05))
    axes[0].legend(fontsize=7)
    panel, beside = axes[-1], axes[-1].twinx()  # values are sums of rewards: on one scale these would be flat
    lines = panel.plot(range(len(preview.values)), preview.values.cpu(), color="tab:blue", label="value")
    lines += beside.plot(steps + 1, preview.imagined.reward[0].cpu(), color="tab:orange", label="imagined reward")
    if happened is not None:
        came = range(1, len(happened) + 1)
        lines += beside.plot(came, happened, "--", color="tab:green", label="reward that came")
    panel.set_xlabel("decisions ahead")
    panel.set_ylabel("value", color="tab:blue")
    beside.set_ylabel("reward", color="tab:orange")
    panel.set_title("along the plan")
    beside.legend(handles=lines, fontsize=7)
    return figure


def candidates_of(info: PlanInfo, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Lines of one number of the action, the worst first so that the best lie on top, and their values."""
    order = info.values[0].argsort().cpu()
    order = order[torch.linspace(0, len(order) - 1, min(DRAWN, len(order))).long()]
    rows = info.candidates[0, order.to(info.candidates.device), :, number].cpu().numpy()
    steps = np.arange(rows.shape[1])
    return [np.stack([steps, row], axis=1) for row in rows], info.values[0].cpu()[order].numpy()


def beside(imagined: Float[Tensor, "H1 C H W"], happened: Float[Tensor, "H1 C H W"]) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Animated: what was planned on the left, what then happened on the right."""
    pair = to_uint8(last_frame(torch.stack([imagined, happened])))
    pair = rearrange(pair, "p t c h w -> p t h w c")
    colors = [SEES] + [IMAGINES] * (len(imagined) - 1)
    frames = [
        np.concatenate([border(plan, color), border(truth, SEES)], axis=1)
        for plan, truth, color in zip(*pair, colors, strict=True)
    ]
    return np.stack([enlarge(frame, 192) for frame in frames])


def beside_what_happened(
    model: WorldModel, preview: PlanPreview, pixels: UInt8[Tensor, "L C H W"]
) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """A plan decoded, and the frames that came from the state on in which it was made."""
    imagined = model.decode(preview.imagined.feat)["pixels"][0, : len(pixels)]
    return beside(imagined.cpu(), pixels_to_float(pixels[: len(imagined)]).cpu())


@torch.no_grad()
def write_plan_figures(run: Run, seed: int) -> None:
    """Write ``plan.png``, and with pixels ``plan.gif`` (planned left, happened right), into the run folder.

    The plan is made in the middle of a held-out episode. What then happens is the planner acting on, planning anew on
    the way. Nothing is written where a planner imagines nothing or the episode is too short.
    """
    generator = torch.Generator(run.model.device).manual_seed(seed)
    amp = precision.acting_context(run.cfg.trainer, run.model.device)
    with held_out_envs(run.cfg.env, 1, seed) as envs:
        agent = Agent(1, run.model, False, generator, amp)
        rows, step, preview, happened = envs.reset(), 0, None, []
        while preview is None or len(happened) <= preview.info.plan.shape[1]:
            agent.filter(rows)
            action = agent.act(run.planner, rows["is_first"])
            if preview is None and step >= BEFORE:
                with amp():
                    preview = preview_plan(run.model, run.planner, agent.state, agent.memory, generator)
                if preview is None:
                    return
            if preview is not None:
                happened.append(rows)
            if rows["is_last"].all():
                break
            rows, step = envs.step(action), step + 1
    if preview is None:
        return
    write_figure(run.path / "plan.png", draw_plan(preview, [float(row["reward"]) for row in happened[1:]]))
    if "pixels" in happened[0]:
        clip = beside_what_happened(run.model, preview, torch.cat([row["pixels"] for row in happened]))
        (run.path / "plan.gif").write_bytes(gif_bytes(clip, fps=5))
