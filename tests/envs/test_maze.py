"""The maze: cells, starts and goals as asked for, nothing in the picture that gives the goal away, a way through it."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from refusals import refuses

from planners.waypoints import Waypoints
from worldmodels.config import load_config
from worldmodels.envs import make
from worldmodels.envs.check import check
from worldmodels.envs.grid import Grid
from worldmodels.envs.maze import ARRIVED, REACHED, Maze, grid_of
from worldmodels.errors import UserError
from worldmodels.factory import build_model, build_planner

U = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


def test_distances_are_counted_on_foot():
    grid = Grid(U)
    assert len(grid.cells) == 7
    assert grid.distance((1, 1), (3, 1)) == 6
    assert grid.distance((2, 3), (2, 3)) == 0
    assert len(grid.pairs(4, 6)) == 12
    assert {grid.distance(a, b) for a, b in grid.pairs(4, 6)} == {4, 5, 6}
    here, walked = (1, 1), []
    while here != (3, 1):
        here = grid.towards(here, (3, 1))
        walked.append(here)
    assert walked == [(1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    for cell in grid.cells:
        assert grid.cell_at(grid.center(cell) + np.array([0.24, -0.24])) == cell


@pytest.mark.process
@pytest.mark.parametrize("obs", ["state", "both"])
def test_the_shipped_configuration_passes_the_checker(obs):
    env = OmegaConf.to_container(load_config(["env=maze"]).env) | {"obs": obs}
    assert [outcome for _, outcome in check(env, steps=30)] == ["ok"] * 5


@pytest.mark.parametrize("maze", ["umaze", "medium", "large"])
def test_starts_and_goals_lie_apart_and_in_free_cells(maze):
    env = Maze(maze, obs="state", min_start_goal_cells=4, seed=3)
    seen = set()
    for _ in range(60):
        observation, info = env.reset()
        start, goal = observation["state"][:2], observation["goal_state"][:2]
        cells = env.grid.cell_at(start), env.grid.cell_at(goal)
        assert env.grid.distance(*cells) >= 4
        for place, cell in zip((start, goal), cells, strict=True):
            assert np.abs(place - env.grid.center(cell)).max() <= 0.25 + 1e-6
        assert not observation["state"][2:].any()
        assert not observation["goal_state"][2:].any()
        assert not info["success"]
        seen.add(cells)
    assert len(seen) > 8


def test_a_negative_leg_is_refused():
    with refuses("max_leg_cells", -1):
        Maze(obs="state", max_leg_cells=-1)


def test_legs_are_short_and_follow_one_another():
    env = Maze(obs="state", max_leg_cells=2, steps=4000, seed=1)
    planner = Waypoints(2, False, "umaze")
    observation, _ = env.reset()
    goals, over = [observation["goal_state"][:2]], False
    while not over:
        feat = torch.from_numpy(np.concatenate([observation["state"], observation["goal_state"]]))[None]
        from dynamics.base import State

        action, _ = planner.act(None, State(feat, {}), {}, torch.zeros(1, dtype=torch.bool), False)
        before = observation
        observation, _, _, over, _ = env.step(action[0].numpy())
        if not np.array_equal(observation["goal_state"], before["goal_state"]):
            goals.append(observation["goal_state"][:2])
            assert np.linalg.norm(observation["state"][:2] - before["goal_state"][:2]) < ARRIVED
            here, there = env.grid.cell_at(observation["state"][:2]), env.grid.cell_at(goals[-1])
            assert 1 <= env.grid.distance(here, there) <= 2
    assert len(goals) > 10


def test_a_reward_is_being_there_and_episodes_last_as_in_d4rl():
    env = Maze(obs="state", action_repeat=4, seed=0)
    env.reset()
    steps, over = 0, False
    while not over:
        observation, reward, terminated, over, info = env.step(np.zeros(2, np.float32))
        steps += info["frames"]
        assert not terminated
        assert reward == info["success"] == 0
    assert steps == 300
    snapshot = env.snapshot()
    snapshot["goal"] = observation["state"][:2] + np.array([REACHED - 0.01, 0])
    snapshot["step"], snapshot["over"] = 0, False
    env.restore(snapshot)
    _, reward, _, _, info = env.step(np.zeros(2, np.float32))
    assert reward == 1
    assert info["success"]


def test_the_picture_shows_the_ball_and_hides_the_goal():
    env = Maze(obs="both", size=64, seed=0)
    one, _ = env.reset()
    snapshot = env.snapshot()
    snapshot["goal"] = env.grid.center((2, 3))
    other = env.restore(snapshot)
    assert np.array_equal(one["pixels"], other["pixels"])
    assert not np.array_equal(one["goal_pixels"], other["goal_pixels"])
    snapshot["goal"] = one["state"][:2].astype(np.float64)
    assert np.array_equal(env.restore(snapshot)["goal_pixels"], one["pixels"])


def test_a_picture_may_be_higher_than_mujocos_buffer():
    """Its own has 480 rows of pixels. The ball is where it is in a small picture."""
    small, large = (Maze(size=size, seed=1).reset()[0]["pixels"] for size in (32, 512))
    assert large.shape == (3, 512, 512)
    shrunk = large.reshape(3, 32, 16, 32, 16).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 10


def test_drawing_changes_nothing_that_happens():
    drawn, blind = Maze(obs="both", size=16, seed=2), Maze(obs="state", seed=2)
    drawn.reset()
    blind.reset()
    for action in np.random.default_rng(0).uniform(-1, 1, (37, 2)).astype(np.float32):
        assert np.array_equal(drawn.step(action)[0]["state"], blind.step(action)[0]["state"])


@pytest.mark.parametrize("maze", ["umaze", "medium"])
def test_waypoints_find_the_way(maze):
    from dynamics.base import State

    planner, reached = Waypoints(2, False, maze), 0
    env = Maze(maze, obs="state", seed=5)
    for _ in range(8):
        observation, _ = env.reset()
        over = there = False
        while not over:
            feat = torch.from_numpy(np.concatenate([observation["state"], observation["goal_state"]]))[None]
            action, _ = planner.act(None, State(feat, {}), {}, torch.zeros(1, dtype=torch.bool), True)
            observation, _, _, over, info = env.step(action[0].numpy())
            there |= info["success"]
        reached += there
    assert reached == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maze": "umase"}, "Did you mean 'umaze'?"),
        ({"min_start_goal_cells": 7}, "min_start_goal_cells=7 is more than lie between any two cells of maze=umaze"),
        ({"steps": 0}, "env.steps=0"),
        ({"obs": "statt"}, "Did you mean 'state'?"),
    ],
)
def test_mistakes_are_one_sentence(options, message):
    env = OmegaConf.to_container(load_config(["env=maze"]).env) | options
    with pytest.raises(UserError) as caught:
        make(env, 0)
    assert message in str(caught.value)
    assert grid_of("large").free.shape == (9, 12)


@pytest.mark.parametrize(
    "planner",
    ["cloning", "diffusion_goals", "diffusion", "cfgrl_goals", "actor_critic", "tdmpc", "mppi"],
)
def test_every_planner_is_built_on_what_a_maze_is_learned_with(planner):
    cfg = load_config(["experiment=maze", f"planner={planner}"])
    spec = dict.fromkeys(("state", "goal_state"), ((4,), torch.float32))
    world = build_model(cfg, spec, 2)
    built = build_planner(cfg.planner, 2, False, world.dynamics.feature_spec)
    assert getattr(built, "plan_horizon", None) == cfg.planner.get("plan_horizon")
    assert world.encoder.zeroed == [2, 3]


def test_maze__leaves_no_temporary_files(tmp_path, monkeypatch):
    """Once a maze is closed, the folder for temporary files is as empty as before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Maze().close()
    assert list(tmp_path.iterdir()) == []
