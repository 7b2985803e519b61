"""What a training is told about itself before it begins."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from model_cases import STATE, model
from toy_runs import built

from planners.learning.learner import discount_of
from worldmodels.config import load_config
from worldmodels.data.collect import warn_of_rewards
from worldmodels.errors import UserError
from worldmodels.training.parts import work_out_discounts
from worldmodels.training.setup import warn_untrained_histories


@pytest.mark.parametrize(
    ("words", "longest", "long_memory", "prefix", "said"),
    [
        (["dynamics=transformer"], 64, False, 0, "sees 64 steps back when it acts, and at most 32"),
        (["dynamics=transformer"], 32, False, 0, ""),
        (["dynamics=transformer", "data.context=burn_in"], 40, False, 8, ""),
        (["dynamics=transformer", "data.context=latent"], 64, False, 1, ""),
        (["dynamics=ssm"], None, True, 1, ""),
        (["dynamics=ssm", "data.context=none"], None, True, 0, "at most 32 steps when it learns"),
        (["dynamics=ssm", "data.dataset=recorded"], None, True, 0, "set a longer data.length"),
        ([], None, False, 0, ""),
    ],
)
def test_a_history_that_was_never_trained_is_told(caplog, words, longest, long_memory, prefix, said):
    assert load_config(["dynamics=transformer"]).dynamics.core.window == 32
    with caplog.at_level(logging.WARNING):
        dynamics = model(observations=STATE).dynamics
        dynamics.max_length, dynamics.long_memory = longest, long_memory
        warn_untrained_histories(load_config(words), dynamics, prefix)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.process
@pytest.mark.parametrize(("limit", "told"), [(0.5, 1), (20.0, 0)])
def test_rewards_beyond_the_bins_are_told_once(tmp_path, caplog, limit, told):
    """Counter's rewards are its steps, 1 to 5; bins of 0.5 under symlog reach to 0.65."""
    with caplog.at_level(logging.WARNING), built(tmp_path, f"+heads.reward.symlog_limit={limit}") as training:
        assert training.module.model.heads["reward"].largest == pytest.approx(math.expm1(limit))
        for _ in range(12):
            training.data.dataset.collector.step(training.data.dataset.prefill_planner)
    said = [record.getMessage() for record in caplog.records if "beyond the bins" in record.message]
    assert len(said) == told
    assert all("reach to 0.6487" in message and "symlog_limit of heads.reward" in message for message in said)


def test_a_recordings_rewards_are_held_to_the_bins_too(caplog):
    with caplog.at_level(logging.WARNING):
        assert not warn_of_rewards(torch.tensor([1.0, -22_000.0]), math.expm1(10))
        assert caplog.text == ""
        assert warn_of_rewards(torch.tensor([1.0, -23_000.0]), math.expm1(10))
    assert "2.3e+04" in caplog.text


@pytest.mark.parametrize(("decisions", "gamma"), [(500, 0.99), (50, 0.95), (5000, 0.995), (250, 0.98)])
def test_a_discount_follows_from_the_length_of_episodes(decisions, gamma):
    planner = load_config(["experiment=tdmpc2"]).planner
    assert planner.learner.gamma == planner.search.gamma == "auto"
    work_out_discounts(planner, decisions)
    assert (
        planner.learner.gamma == planner.search.gamma == pytest.approx(gamma) == pytest.approx(discount_of(decisions))
    )


def test_a_discount_without_a_length_is_asked_for():
    with pytest.raises(UserError, match=r"env\.max_episode_steps"):
        work_out_discounts(load_config(["experiment=tdmpc2"]).planner, None)
    work_out_discounts(load_config(["planner=tdmpc"]).planner, None)


@pytest.mark.process
def test_newest_windows_need_whole_streams(tmp_path):
    words = ("data.newest_once=true", "data.cross_resets=false")
    with pytest.raises(UserError, match=r"data\.cross_resets=true"), built(tmp_path, *words):
        pass


@pytest.mark.process
def test_a_planner_may_fill_the_replay_itself(tmp_path):
    """As DreamerV3's actor does. Its newest windows are then learned from once."""
    words = ("prefill_planner=null", "data.newest_once=true", "planner=actor_critic")
    with built(tmp_path, *words) as training:
        dataset = training.data.dataset
        assert dataset.prefill_planner is dataset.planner
        batch = next(iter(dataset))
        assert batch["action"].abs().sum() > 0
        assert dataset.replay.state_dict()["taken"] > 0
