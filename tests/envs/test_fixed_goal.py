"""Goals that a user names: an image or a state beside every observation of any environment."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf
from places import CONFIGS
from refusals import refuses
from toy_runs import REST

from worldmodels.envs import make
from worldmodels.envs.check import check
from worldmodels.errors import UserError
from worldmodels.runs.loading import load_run
from worldmodels.training.run import train

COUNTER = CONFIGS / "env" / "counter.yaml"


def counter(**options):
    return OmegaConf.to_container(OmegaConf.load(COUNTER)) | options


@pytest.fixture
def image(tmp_path):
    """Red above, green below."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :, 2], picture[16:, :, 1] = 255, 255  # OpenCV's order is blue, green, red
    cv2.imwrite(str(tmp_path / "goal.png"), picture)
    return str(tmp_path / "goal.png")


def numbers(env):
    return [0.5] * make(env, 0).observation_space["state"].shape[0]


@pytest.mark.process
def test_a_goal_stands_beside_every_observation(image):
    env = counter(obs="both")
    env["goal"] = {"pixels": image, "state": numbers(env)}
    made, bare = make(env, 0), make(env | {"goal": None}, 0)
    action = np.full(made.action_space.shape, 0.5, np.float32)
    pairs = [(made.reset()[0], bare.reset()[0]), (made.step(action)[0], bare.step(action)[0])]
    for shown, expected in pairs:
        for key, value in expected.items():
            np.testing.assert_array_equal(shown[key], value)
        assert (shown["goal_pixels"][0, :8] == 255).all()
        assert (shown["goal_pixels"][1, 8:] == 255).all()
        assert not shown["goal_pixels"][2].any()
        assert (shown["goal_state"] == 0.5).all()
        assert made.observation_space.contains(shown)
    assert [outcome for _, outcome in check(env, steps=20)] == ["ok"] * 5


def test_a_goal_is_stacked_like_what_is_seen(image):
    made = make(counter(obs="pixels", goal=image, stack=3), 0)
    observation = made.reset()[0]
    assert observation["goal_pixels"].shape == observation["pixels"].shape == (9, 16, 16)
    restored = made.restore(made.snapshot())
    assert all(np.array_equal(restored[key], value) for key, value in observation.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs": "state", "goal": [1.0, 2.0]}, r"goal=\[1\.0, 2\.0\] must be \d+ finite numbers for state"),
        ({"obs": "state", "goal": ["a", 2.0]}, "is not a list of numbers"),
        ({"obs": "pixels", "goal": [1.0]}, "must give what is observed, pixels, and gives state"),
        ({"obs": "both", "goal": "a.png"}, "must give what is observed, pixels and state, and gives pixels"),
        ({"obs": "pixels", "goal": "nowhere.png"}, r"env\.goal=nowhere\.png is not an image"),
        ({"obs": "pixels", "goal": "wide"}, "2 x 1: an image must be square"),
    ],
)
def test_goals_that_do_not_fit_are_refused(options, message, tmp_path):
    if options["goal"] == "wide":
        options = options | {"goal": str(tmp_path / "wide.png")}
        cv2.imwrite(options["goal"], np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(UserError, match=message):
        make(counter(**options), 0)


def test_a_maze_has_goals_of_its_own():
    maze = OmegaConf.to_container(OmegaConf.load(COUNTER.parent / "maze.yaml")) | {"obs": "state", "goal": [0.0] * 4}
    with refuses("env.goal", [0.0] * 4):
        make(maze, 0)


@pytest.mark.process
def test_a_planner_aims_at_the_goal_it_is_given_afterwards(tmp_path, unscored):
    env = counter(obs="state")
    words = [word for word in REST if not word.startswith("planner.")]
    small = ["planner.plan_horizon=3", "denoiser.width=16", "planner.acting.steps=2", "planner.acting.replan_every=1"]
    goals = [f"+env.goal={[value] * len(numbers(env))}".replace(" ", "") for value in (0.5, 1.5)]
    train(["env=counter", "env.obs=state", *words, "planner=diffusion", *small, goals[0],
           f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    run = load_run(tmp_path / "run", [goals[1].removeprefix("+")])
    assert run.model.dynamics.goal_dim > 0
    assert make(run.cfg.env, 0).reset()[0]["goal_state"].tolist() == [1.5] * len(numbers(env))
