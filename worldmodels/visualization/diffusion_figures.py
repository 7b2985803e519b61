"""Pictures of diffusion planning: how a plan comes out of the noise, what guidance does to it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from dynamics.base import Memory, State
from dynamics.goal import join_goal, split_goal
from planners.base import Decision
from planners.diffusion.plan_scoring import PlanBatch
from planners.diffusion.planner import Diffusion
from worldmodels.agent import Agent
from worldmodels.common import precision
from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.common.figures import blank_figure, write_figure
from worldmodels.common.frames import enlarge, gif_bytes, last_frame, to_uint8
from worldmodels.envs.grid import Grid
from worldmodels.envs.maze import grid_of
from worldmodels.envs.vector import VectorEnv, held_out_envs
from worldmodels.model import WorldModel
from worldmodels.runs.loading import Run

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Weights of guidance, in multiples of its own, side by side."""
SHOWN = 8
"""Steps of a plan whose decoded frames are shown."""


@dataclass(frozen=True)
class Situation:
    """One state to plan in, and what can be seen of it."""

    model: WorldModel
    planner: Diffusion
    state: State
    memory: Memory
    grid: Grid | None
    """The maze, where it is one and positions can be decoded."""
    goal: Float[np.ndarray, " 2"] | None


@torch.no_grad()
def write_diffusion_figures(run: Run, seed: int) -> None:
    """Write ``denoising.gif``, ``guidance.png`` and in mazes ``path.png``, of the first held-out episode.

    Without a second where nothing can guide: plans of actions alone, under no label.
    """
    if not isinstance(run.planner, Diffusion):
        return
    generator = torch.Generator(run.model.device).manual_seed(seed)
    amp = precision.acting_context(run.cfg.trainer, run.model.device)
    with held_out_envs(run.cfg.env, 1, seed) as envs, amp():
        agent, rows = Agent(1, run.model, False, generator, amp), envs.reset()
        agent.filter(rows)
        memory = {key: value.to(run.model.device) for key, value in run.planner.initial(1).items()}
        situation = Situation(run.model, run.planner, agent.state, memory, maze_of(run), goal_of(rows))
        if situation.grid is None and "pixels" not in run.model.decode(agent.state.feat):
            return  # nothing of a plan can be drawn
        (run.path / "denoising.gif").write_bytes(gif_bytes(denoising(situation, generator), fps=3))
        if guiding(run.planner):
            write_figure(run.path / "guidance.png", guidance(situation, generator))
        if situation.grid is not None:
            write_figure(run.path / "path.png", followed(situation, envs, agent, rows))


def maze_of(run: Run) -> Grid | None:
    """The maze that a run is in, if its model decodes positions."""
    decodes = any("state" in (objective.decoder or ()) for objective in run.model.objectives.values())
    return grid_of(run.cfg.env.maze) if "maze" in run.cfg.env and decodes else None


def goal_of(rows: dict[str, Tensor]) -> Float[np.ndarray, " 2"] | None:
    """Return the goal's position, if that is observed."""
    return rows[GOAL_PREFIX + "state"][0, :2].numpy() if GOAL_PREFIX + "state" in rows else None


def denoising(situation: Situation, generator: torch.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """Animate what every step of sampling takes to be the plan. The last frame is the plan."""
    estimates: list[Tensor] = []
    sampled, _ = situation.planner.sample_plans(
        Decision.begin(situation.model, situation.state, False, generator), situation.memory, estimates.append
    )
    learner = situation.planner.learner
    width, best = learner.trajectories.feat_dim, int(sampled.values[0].argmax())
    steps = [foreseen(situation, estimate[..., :width], learner.actions(estimate)) for estimate in estimates]
    steps.append(foreseen(situation, sampled.latents[0], sampled.actions[0]))
    titles = [f"step {i + 1} of {len(estimates)}" for i in range(len(estimates))] + ["the plan"]
    if situation.grid is None:
        frames = [decoded_strip(situation, latents[best]) for latents in steps]
    else:
        frames = [
            pixels_of(draw_paths(situation.grid, situation.goal, [positions(situation, x)], [title], best))
            for x, title in zip(steps, titles, strict=True)
        ]
    return np.stack(frames + [frames[-1]] * 4)


def guidance(situation: Situation, generator: torch.Generator) -> Figure:
    """Plans at several weights of everything that guides, from the same noise: paths, or decoded frames."""
    seed, shown, titles = generator.initial_seed(), [], []
    own = guiding(situation.planner)
    for times in WEIGHTS:
        weights = {name: times * weight for name, weight in own.items()}
        again = torch.Generator(generator.device).manual_seed(seed)
        sampled, _ = situation.planner.sample_plans(
            Decision.begin(situation.model, situation.state, False, again), situation.memory, weights=weights
        )
        shown.append(sampled)
        strengths = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        titles.append(f"weight of {strengths}\nimagined return {mean_return(situation, sampled):.2f}")
    if situation.grid is not None:
        return draw_paths(
            situation.grid,
            situation.goal,
            [positions(situation, foreseen(situation, sampled.latents[0], sampled.actions[0])) for sampled in shown],
            titles,
            None,
        )
    figure = blank_figure(8, 1.3 * len(shown))
    for axes, sampled, title in zip(figure.subplots(len(shown), 1), shown, titles, strict=True):
        latents, actions, _ = sampled.best()
        axes.imshow(decoded_strip(situation, foreseen(situation, latents, actions)[0]))
        axes.set_title(title.replace("\n", ", "), fontsize=8)
        axes.set_axis_off()
    return figure


def guiding(planner: Diffusion) -> dict[str, float]:
    """Return what guides the plans and how much, labels and gradients.

    Where nothing does, the reward's gradient would.
    """
    labels = {name: label.weight for name, label in planner.learner.labels.items() if label.weight != 0}
    return labels | planner.terms({}) or ({"reward": 1.0} if planner.learner.trajectories.latents else {})


def foreseen(
    situation: Situation, latents: Float[Tensor, "K L F"], actions: Float[Tensor, "K L A"]
) -> Float[Tensor, "K L F"]:
    """Return the latents of plans. Those of actions alone are what the world model imagines."""
    if situation.planner.learner.trajectories.latents:
        return latents
    forked = situation.model.dynamics.fork(situation.state, len(actions))
    generator = torch.Generator(actions.device).manual_seed(0)
    imagined = situation.model.imagine(forked, situation.planner.family.mode(actions), actions.shape[1], generator)
    return split_goal(imagined.feat[:, :-1], situation.model.dynamics.goal_dim)[0]


def mean_return(situation: Situation, sampled: PlanBatch) -> float:
    """Return the undiscounted return that the world model imagines for the plans."""
    actions = situation.planner.family.mode(sampled.actions[0])
    forked = situation.model.dynamics.fork(situation.state, len(actions))
    generator = torch.Generator(actions.device).manual_seed(0)
    return float(situation.model.imagine(forked, actions, actions.shape[1], generator).reward.sum(1).mean())


def followed(situation: Situation, envs: VectorEnv, agent: Agent, rows: dict[str, Tensor]) -> Figure:
    """The first plan, and the way that was then taken, planning anew as ever."""
    planned, way = None, [rows["state"][0, :2].numpy()]
    while not rows["is_last"].all():
        action = agent.act(situation.planner, rows["is_first"])
        if planned is None:
            planned = positions(situation, foreseen(situation, agent.memory["latents"], agent.memory["plan"]))
        rows = envs.step(action)
        agent.filter(rows)
        way.append(rows["state"][0, :2].numpy())
    return draw_paths(
        situation.grid, situation.goal, [planned], ["red: the first plan, blue: the way taken"], 0, np.stack(way)
    )


def positions(situation: Situation, latents: Float[Tensor, "K L F"]) -> Float[np.ndarray, "K L 2"]:
    """Return the ball's decoded position in each latent."""
    goal = split_goal(situation.state.feat, situation.model.dynamics.goal_dim)[1]
    feat = join_goal(latents, None if goal is None else goal.expand(len(latents), -1))
    return situation.model.decode(feat)["state"][..., :2].cpu().numpy()


def decoded_strip(situation: Situation, latents: Float[Tensor, "L F"]) -> UInt8[np.ndarray, "H W 3"]:
    """Frames of a plan, evenly spaced."""
    goal = split_goal(situation.state.feat, situation.model.dynamics.goal_dim)[1]
    rows = torch.linspace(0, len(latents) - 1, min(SHOWN, len(latents))).round().long()
    feat = join_goal(latents[rows.to(latents.device)][None], goal)
    frames = to_uint8(last_frame(situation.model.decode(feat)["pixels"][0]))
    return enlarge(rearrange(frames, "t c h w -> h (t w) c"), 96)


def draw_paths(
    grid: Grid,
    goal: Float[np.ndarray, " 2"] | None,
    paths: list[Float[np.ndarray, "K L 2"]],
    titles: list[str],
    best: int | None,
    way: Float[np.ndarray, "T 2"] | None = None,
) -> Figure:
    """Draw paths over the maze, a panel for each set of them.

    The best is red, the way that was taken blue.
    """
    height, width = grid.free.shape
    figure = blank_figure(2.6 * len(paths), 2.6 * height / width + 0.5)
    for axes, group, title in zip(np.ravel(figure.subplots(1, len(paths))), paths, titles, strict=True):
        extent = (-width / 2, width / 2, -height / 2, height / 2)
        axes.imshow(grid.free, cmap="gray", vmin=-3, vmax=1, extent=extent)
        for number, path in enumerate(group):
            chosen = number == best
            axes.plot(
                *path.T, ".-", color="tab:red" if chosen else "dimgray", linewidth=1, markersize=2, zorder=2 + chosen
            )
        if way is not None:
            axes.plot(*way.T, color="tab:blue", linewidth=2, zorder=4)
        axes.plot(*group[0, 0], "o", color="tab:green", zorder=5)
        if goal is not None:
            axes.plot(*goal, "*", color="gold", markersize=12, zorder=5)
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    return figure


def pixels_of(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """A figure as an image."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
