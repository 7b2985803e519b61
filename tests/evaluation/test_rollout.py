"""Scores: played in environments of their own, by generators of their own, beside what needs no learning."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from refusals import refuses

from worldmodels.agent import Agent
from worldmodels.common.precision import acting_context
from worldmodels.common.terminal import tell_once
from worldmodels.data.model_free import ModelFreeAgent
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.evaluation import report, rollout
from worldmodels.evaluation.baselines import Constant
from worldmodels.evaluation.rollout import EpisodeBatch, evaluate, play, play_baseline, record_baseline
from worldmodels.runs.loading import load_run
from worldmodels.visualization.imagination import draw_strip

COUNTER = {
    "_target_": "worldmodels.envs.toy.Counter",
    "lengths": [5, 3],
    "obs": "state",
    "num_envs": 7,
    "step_timeout": 60.0,
}


@pytest.fixture(scope="module")
def run(finished_run):
    return load_run(finished_run)


@pytest.mark.process
def test_each_environment_counts_until_its_first_episode_ends():
    with VectorEnv(COUNTER, 3, seed=0) as envs:
        episodes = play(envs, ModelFreeAgent(3, torch.Generator()), Constant(2, False, 0.5))
    assert episodes.lengths == [6, 4, 6]
    assert episodes.returns == [15 + 5 * 0.25, 6 + 3 * 0.25, 15 + 5 * 0.25]
    assert episodes.rows["state"].shape == (3, 6, 6)


def test_many_episodes_are_played_in_lots_of_their_own_seeds(monkeypatch, run):
    seeds = []

    class Recorded(VectorEnv):
        def __init__(self, env, num_envs, seed, timeout):
            seeds.append(seed)
            super().__init__(env, num_envs, seed, timeout)

    monkeypatch.setattr("worldmodels.envs.vector.VectorEnv", Recorded)
    one_lot = evaluate(run.cfg.env, run.model, run.planner, 2, 3, explore=False)
    monkeypatch.setattr(rollout, "EPISODES_AT_ONCE", 2)
    lots = evaluate(run.cfg.env, run.model, run.planner, 5, 3, explore=False)
    assert lots.returns[:2] == one_lot.returns
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert len(lots.returns) == len(lots.lengths) == 5
    assert lots.rows["state"].shape[:2] == (5, max(lots.lengths))
    short = EpisodeBatch([1.0], {"x": torch.ones(1, 2)}, [2])
    assert rollout.concat([short, EpisodeBatch([2.0], {"x": torch.ones(1, 3)}, [3])]).rows["x"].tolist() == [
        [1, 1, 0],
        [1, 1, 1],
    ]
    assert play_baseline(COUNTER, lambda a, d: Constant(a, d, 1.0), 3, 0) == [17.5, 7.5, 17.5]


ENDLESS = {**COUNTER, "_target_": "worldmodels.envs.gym.GymEnv", "id": "odd_envs:Endless-v0"}
del ENDLESS["lengths"]


@pytest.mark.process
def test_an_episode_without_an_end_is_cut_and_told(caplog):
    tell_once.cache_clear()
    assert play_baseline(COUNTER, lambda a, d: Constant(a, d, 1.0), 2, 0, max_steps=4) == [12, 7.5]
    assert play_baseline(ENDLESS, lambda a, d: Constant(a, d, 1.0), 2, 0, max_steps=4) == [0, 0]
    assert [message.split(":")[0] for message in caplog.messages] == [
        "1 of 2 episodes of Counter had no end and were cut (evaluation.max_steps)",
        "2 of 2 episodes of odd_envs",
    ]
    assert "env.max_episode_steps=1000 with env=gym" in caplog.text
    limited = {**ENDLESS, "max_episode_steps": 3}
    played = record_baseline(limited, lambda a, d: Constant(a, d, 1.0), 1, 0, max_steps=4)
    assert (played.cut, played.lengths) == (0, [4])


@pytest.mark.process
@pytest.mark.parametrize(("kept_bytes", "rows"), [(0, 1), (250, 2), (10**9, 6)])
def test_scores_are_of_all_rows_and_memory_of_few(kept_bytes, rows):
    with VectorEnv(COUNTER, 2, seed=0) as envs:
        agent = ModelFreeAgent(2, torch.Generator())
        episodes = play(envs, agent, Constant(2, False, 0.5), kept_bytes=kept_bytes)
    assert episodes.returns == [15 + 5 * 0.25, 6 + 3 * 0.25]
    assert episodes.lengths == [rows, min(rows, 4)]
    assert episodes.rows["state"].shape == (2, rows, 6)


@pytest.mark.process
@pytest.mark.parametrize(("steps", "solved"), [(4, [True]), (2, [False])])
def test_a_success_that_gymnasium_tells_late_is_scored(steps, solved):
    """Also where the row that tells it is not kept."""
    env = {**ENDLESS, "id": "odd_envs:Success-v0", "max_episode_steps": steps}
    for kept_bytes in (0, 10**9):
        played = record_baseline(env, lambda a, d: Constant(a, d, 1.0), 1, 0, kept_bytes=kept_bytes)
        assert played.successes() == solved
    silent = {**ENDLESS, "id": "odd_envs:Odd-v0", "max_episode_steps": steps}
    assert record_baseline(silent, lambda a, d: Constant(a, d, 1.0), 1, 0).successes() is None


@pytest.mark.process
def test_policies_that_look_at_nothing_need_no_pictures():
    env = {
        **COUNTER,
        "obs": "pixels",
        "baseline_overrides": {"obs": "state"},
        "size": 33,
    }  # a size that cannot be drawn
    with refuses("env.size", 33):
        play_baseline({**env, "baseline_overrides": {}}, lambda a, d: Constant(a, d, 0.0), 2, 0)
    env["baseline_overrides"]["size"] = 16
    assert play_baseline(env, lambda a, d: Constant(a, d, 1.0), 2, 0) == [17.5, 7.5]


def test_deterministic_and_stochastic_returns_differ(run, finished_run):
    """Each repeats with its seed, and evaluation.json tells the two apart."""

    def returns(explore: bool, seed: int) -> list[float]:
        as_played = acting_context(run.cfg.trainer, torch.device("cpu"))
        return evaluate(run.cfg.env, run.model, run.planner, 2, seed, explore, as_played).returns

    assert returns(True, 3) == returns(True, 3)
    assert returns(False, 3) == returns(False, 3)
    assert returns(True, 3) != returns(False, 3)
    result = json.loads((finished_run / "evaluation.json").read_text())
    assert result["returns"] == returns(False, 1000)
    assert result["return_mean"] == pytest.approx(np.mean(result["returns"]))
    assert result["return_std"] == pytest.approx(np.std(result["returns"]))
    assert result["return_stochastic_mean"] == pytest.approx(np.mean(returns(True, 1000)))


def test_evaluating_in_mid_episode_changes_no_action(run):
    """An agent acts the same whether or not an evaluation takes place between two of its steps."""

    def actions(interrupted: bool) -> torch.Tensor:
        made = []
        with VectorEnv(run.cfg.env, 2, seed=5) as envs:
            agent = Agent(2, run.model, True, torch.Generator().manual_seed(1))
            rows = envs.reset()
            for step in range(4):
                agent.filter(rows)
                made.append(agent.act(run.planner, rows["is_first"]))
                if interrupted and step == 2:
                    evaluate(run.cfg.env, run.model, run.planner, 1, 9, explore=True)
                rows = envs.step(made[-1])
        return torch.stack(made)

    assert torch.equal(actions(False), actions(True))


def test_held_out_windows_lie_within_one_episode():
    rows = {"state": torch.arange(2 * 9).view(2, 9), "action": torch.zeros(2, 9, 1)}
    found = report.windows(EpisodeBatch([0.0, 0.0], rows, [9, 5]), 4)
    assert found["state"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12]]
    with pytest.raises(UserError, match="lower context or imag_horizon"):
        report.windows(EpisodeBatch([0.0, 0.0], rows, [9, 5]), 10)


@pytest.mark.parametrize("value", [0, 255, 102])
def test_image_errors_of_constant_frames_are_numbers(run, value):
    """Where every frame is the mean frame, there is nothing to blend in, and no division by it."""
    shape = (3, 5)
    batch = {
        "pixels": torch.full((*shape, 3, 16, 16), value, dtype=torch.uint8),
        "state": torch.zeros(*shape, 6),
        "action": torch.zeros(*shape, 2),
        "is_first": torch.zeros(shape, dtype=torch.bool),
    }
    made = report.image_errors(run, batch, torch.full((3, 16, 16), value / 255), 2, 3, futures=1)
    assert made["errors"]["blend_error"] == pytest.approx([0.0] * 3, abs=1e-9)
    assert all(np.isfinite(values).all() for key, values in made["errors"].items() if key.endswith("_error"))
    assert np.isfinite(draw_strip(made["clip"])).all()


def test_image_errors__has_baselines_that_see_no_action(run):
    """The last frame and its best blend with the mean frame are scored, and so are shuffled actions."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, 5)
    batch = {
        "pixels": torch.randint(256, (*shape, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "state": torch.randn(*shape, 6, generator=generator),
        "action": torch.rand(*shape, 2, generator=generator),
        "is_first": torch.zeros(shape, dtype=torch.bool),
    }
    mean = torch.full((3, 16, 16), 0.4)
    errors = report.image_errors(run, batch, mean, 2, 3, futures=2)["errors"]
    pixels = batch["pixels"].double() / 255
    last, truth = pixels[:, 1:2], pixels[:, 2:]
    np.testing.assert_allclose(errors["last_frame_error"], (truth - last).square().mean((0, 2, 3, 4)), rtol=1e-4)
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)
    blends = [((1 - share) * last + share * mean - truth).square().mean((0, 2, 3, 4)) for share in shares]
    np.testing.assert_allclose(errors["blend_error"], torch.stack(blends).amin(0), rtol=1e-4)
    assert errors["shuffled_action_error"] != errors["model_error"]
    assert errors["windows"] == 6
