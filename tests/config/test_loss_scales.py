"""Factors of losses: each part has its own, and the root stands above them."""

from __future__ import annotations

import pytest
from model_cases import BOTH, STATE, config
from refusals import refuses

from worldmodels.config import load_config
from worldmodels.errors import UserError
from worldmodels.factory import loss_scales
from worldmodels.runs.edit import override
from worldmodels.training.parts import parts


def test_each_part_brings_its_own():
    assert loss_scales(config(), BOTH) == {
        "dyn": 1.0,
        "rep": 0.1,
        "pixels": 1.0,
        "state": 1.0,
        "reward": 1.0,
        "cont": 1.0,
    }
    tdmpc2 = {"consistency": 20.0, "state": 1.0, "reward": 0.1, "cont": 1.0, "q": 0.1, "policy": 1.0}
    assert loss_scales(load_config(["experiment=tdmpc2"]), STATE) == tdmpc2


@pytest.mark.parametrize("word", ["loss_scales.rep=0.3", "+loss_scales.rep=0.3", "dynamics.loss_scales.rep=0.3"])
def test_a_word_sets_one(word):
    assert loss_scales(config(word), STATE) == loss_scales(config(), STATE) | {"rep": 0.3}


def test_the_root_stands_above_experiments_and_parts():
    cfg = load_config(["experiment=tdmpc2", "loss_scales.reward=2", "heads.reward.loss_scales.reward=3"])
    assert loss_scales(cfg, STATE)["reward"] == 2
    assert loss_scales(load_config(["planner=actor_critic", "loss_scales.actor=0.5"]), STATE)["actor"] == 0.5


def test_a_stored_run_takes_words_too():
    """Another part brings scales of its own."""
    run = config("loss_scales.reward=2")
    assert loss_scales(override(run, ["loss_scales.rep=0.3"]), STATE) == loss_scales(run, STATE) | {"rep": 0.3}
    other = loss_scales(override(run, ["dynamics=implicit"]), STATE)
    assert other == {"consistency": 20.0, "state": 1.0, "reward": 2, "cont": 1.0}


@pytest.mark.parametrize("known", [load_config, lambda words: override(config(), words)], ids=["new", "stored"])
def test_a_loss_that_no_part_has_is_answered_with_the_nearest(known):
    with pytest.raises(UserError, match=r"^there is no loss 'rpe' to scale: .*Did you mean 'rep'\?$"):
        known(["loss_scales.rpe=1"])
    with refuses("loss_scales.rep", "much"):
        known(["loss_scales.rep=much"])


def test_two_parts_with_one_name_for_a_loss_are_refused():
    words = ["+objective.probe={_target_: worldmodels.objectives.probe.Probe, loss_scales: {state: 1.0}}"]
    with pytest.raises(UserError, match=r"^objective.probe and objective.reconstruction both have a loss 'state'"):
        load_config(words)


def test_a_part_brings_the_options_of_its_own_parts():
    found = parts(load_config(["dynamics=implicit", "optimizer.encoder_lr=1e-4", "planner=tdmpc"]))
    assert found == {"model.dynamics.encode": {"lr": 1e-4}, "planner.learner.actor": {"eps": 1e-5}}
