"""A maze from recording to pictures: what a run of a diffusion planner leaves behind, and what its scores are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy_runs import EVALUATION, script
from toy_runs import TINY as WHOLE

from worldmodels.errors import OptionError, UserError
from worldmodels.evaluation.rollout import EpisodeBatch
from worldmodels.runs.edit import override
from worldmodels.runs.folders import read_config
from worldmodels.runs.loading import load_run
from worldmodels.training.run import train
from worldmodels.visualization.diffusion_figures import draw_paths, grid_of, guiding

pytestmark = pytest.mark.process

TINY = [word for word in WHOLE if not word.startswith(("planner.", "train_ratio", "data."))]
MAZE = (
    "env=maze",
    "env.num_envs=1",
    "env.size=16",
    "env.steps=80",
    "env.action_repeat=4",
    "env.min_start_goal_cells=1",
)
SHORT = ("denoiser.width=16", "planner.plan_horizon=6", "planner.acting.steps=3", "planner.acting.replan_every=2")
OFFLINE = ("data.batch_size=4", "data.length=8", "data.cross_resets=false", "updates=6", "trainer.video_every=6")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maze") / "set"
    script("collect")([f"to={folder}", "frames=600", *MAZE, "env.obs=both", "env.max_leg_cells=2", "planner=waypoints"])
    return folder


@pytest.fixture(scope="module")
def runs(recording, tmp_path_factory):
    """A run of each kind, by planner."""
    folder = tmp_path_factory.mktemp("maze_runs")
    for planner, obs in (("diffusion", "state"), ("cfgrl_goals", "pixels")):
        words = [*TINY, *MAZE, *SHORT, *OFFLINE, *EVALUATION, f"env.obs={obs}", f"data={recording}"]
        train([*words, "dynamics=implicit", f"planner={planner}", f"run_dir={folder / planner}"])
    return folder


def test_a_recording_knows_its_policy_and_goals(recording):
    card = json.loads((recording / "card.json").read_text())
    assert card["planner"] == "waypoints"
    assert {"pixels", "state", "goal_pixels", "goal_state"} <= card["columns"].keys()


def test_evaluation__tells_success_and_a_normalized_score(runs):
    """The score is 0 for random actions and 100 for the reference, which is a way through."""
    result = json.loads((runs / "diffusion" / "evaluation.json").read_text())
    assert 0 <= result["success_rate"] <= 1
    assert len(result["successes"]) == 2
    best, worst = result["baselines"]["reference"], result["baselines"]["random"]
    assert result["normalized_score"] == pytest.approx(100 * (result["return_mean"] - worst) / (best - worst))


def test_pictures_show_how_a_plan_comes_about(runs):
    run = runs / "diffusion"
    with Image.open(run / "denoising.gif") as image:
        assert image.n_frames >= 3 + 1
    for name, width in (("path.png", 200), ("plan.png", 400)):
        with Image.open(run / name) as image:
            assert image.size[0] > width
    assert not (run / "guidance.png").exists()  # nothing can guide actions alone
    run = runs / "cfgrl_goals"
    with Image.open(run / "denoising.gif") as image:
        assert image.n_frames > 1
    assert (run / "guidance.png").exists()
    assert not (run / "path.png").exists()  # no positions are decoded


def test_what_guides_is_what_is_shown(runs):
    run = load_run(runs / "cfgrl_goals", ["planner.guidance.reward.weight=0.5"])
    assert guiding(run.planner) == {"goal": run.planner.learner.labels["goal"].weight, "reward": 0.5}
    assert guiding(load_run(runs / "diffusion").planner) == {}


def test_planner_is_trained_on_a_frozen_model_from_a_recording(runs, recording, tmp_path):
    """The world model's weights do not move, options reach the planner, and misspelled keys are refused."""
    trained = runs / "diffusion"
    words = [*SHORT, *OFFLINE, *EVALUATION, "evaluation.episodes=1", f"data={recording}", "planner=diffusion_goals"]
    words += ["planner.acting.min_goal_step=2"]
    words += ["planner.learner.critic={units: 16, layers: 1}", "+planner.learner.loss_scales.critic=0.5"]
    train([f"world_model={trained}", *words, f"run_dir={tmp_path / 'run'}"])
    before, after = (load_run(folder).model.state_dict() for folder in (trained, tmp_path / "run"))
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["planner"] == "diffusion_goals"
    cfg = read_config(tmp_path / "run")
    assert cfg.denoiser == cfg.planner.learner.trajectories.net
    assert cfg.planner.learner.loss_scales == {"denoise": 1.0, "forward": 1.0, "critic": 0.5}
    run = load_run(tmp_path / "run", ["planner=diffuser"])  # another setting brings its own way of acting
    assert run.planner.terms({}) == {"reward": 0.1, "value": 0.1}
    assert run.planner.sampler.name == "ddpm"
    assert run.planner.plan_horizon == read_config(trained).planner.plan_horizon  # as it was trained
    assert run.planner.learner.trajectories.schedule.prediction == "sample"  # likewise
    with pytest.raises(UserError, match=r"planner\.lerner=.* is not an option.*Did you mean 'learner'"):
        override(cfg, ["+planner.lerner.more=1"])
    with pytest.raises(UserError, match="updatez=1 is not an option"):
        override(cfg, ["+updatez=1"])


def test_trained_run_takes_another_sampler_but_no_more_steps(runs):
    """Another sampler may be chosen for a trained run, but not more steps than it learned."""
    run = load_run(runs / "diffusion", ["planner.acting.sampler=ddpm", "planner.acting.steps=50"])
    assert run.planner.sampler.name == "ddpm"
    with pytest.raises(OptionError) as refused:
        load_run(runs / "diffusion", ["planner.acting.steps=101"])
    assert (refused.value.option, refused.value.value) == ("planner.acting.steps", 101)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("planner=cfgrl_goals", "train them with .* planner=cfgrl_goals"),
        ("planner=diffuser", "train them with .* planner=diffuser"),
        ("planner=cfgrl", "where goals are shown use planner=diffusion_goals"),
        ("planner.plan_horizon=7", r"planner\.plan_horizon cannot change: .* trained with 6"),
        ("planner.learner.goal_share=0.5", r"planner\.learner\.goal_share cannot change: .* trained with 0\.9"),
    ],
)
def test_what_was_not_trained_is_not_scored_under_its_name(runs, word, message):
    """Else `cfgrl` would be plain trajectories without a label, under that name."""
    with pytest.raises(UserError, match=message):
        load_run(runs / "diffusion", [word])


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        ([[0, 1, 0], [0, 0, 1]], [True, False]),
        ([[-1, 0, 1], [-1, 0, 1]], [True, False]),
        ([[0, 0, 0], [-1, -1, 0]], None),
    ],
)
def test_successes__count_at_any_time_before_the_end(success, expected):
    """What comes after an episode's end does not count, and a task that does not tell gives None."""
    played = EpisodeBatch([0.0, 0.0], {"success": torch.tensor(success)}, [3, 2])
    assert played.successes() == expected


def test_paths_are_drawn_where_they_are():
    path = np.stack([np.linspace(-1, 1, 5), np.ones(5)], axis=1)[None]
    figure = draw_paths(grid_of("umaze"), np.array([1.0, -1.0]), [path, path], ["a", "b"], 0)
    assert len(figure.axes) == 2
    [line] = [line for line in figure.axes[0].lines if line.get_color() == "tab:red"]
    np.testing.assert_array_equal(np.stack(line.get_data(), axis=1), path[0])
    shown = figure.axes[0].images[0]
    assert shown.get_extent() == [-2.5, 2.5, -2.5, 2.5]
    assert bool(shown.get_array()[1, 1]) is True  # row 0 is the top, where y is largest
