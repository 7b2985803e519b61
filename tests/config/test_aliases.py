"""Renamed words are taken for one release, and say what they are called now."""

from __future__ import annotations

import logging

import pytest
from omegaconf import OmegaConf

from worldmodels.config import load_config
from worldmodels.config.aliases import RENAMED, _say, renamed

CASES = {
    "space": ([], "simnorm", "choices.latent"),
    "dynamics.space": ([], "{a: 1}", None),
    "dynamics.core.head": (["dynamics=mamba"], "8", "dynamics.core.head_dim"),
    "dynamics.core.state": (["dynamics=mamba"], "8", "dynamics.core.state_dim"),
    "dynamics.core.space.state": (["dynamics=s4d"], "8", "dynamics.core.space.state_dim"),
    "dynamics.core.rates": (["dynamics=mamba"], "[0.5,2.0]", "dynamics.core.decay_range"),
    "encoder.shift": ([], "3", "encoder.random_shift"),
    "env.apart": (["env=maze"], "2", "env.min_start_goal_cells"),
    "env.blind": (["env=maze"], "{obs: state}", "env.baseline_overrides"),
    "env.legs": (["env=maze"], "2", "env.max_leg_cells"),
    "env.reference": (["env=maze"], "null", "env.expert"),
    "env.still": (["env=maze"], "[1]", "env.goal_zero_indices"),
    "heads.reward.limit": (["heads=transition"], "5.0", "heads.reward.symlog_limit"),
    "optimizer.average": ([], "0.5", "optimizer.ema_decay"),
    "optimizer.parts": ([], "{planner: {lr: 0.1}}", "optimizer.param_groups"),
    "planner.acting.kept": (["planner=diffusion"], "2", "planner.acting.warm_candidates"),
    "pictures": ([], "default", ""),
    "planner.acting.share": (["planner=diffusion"], "0.25", "planner.acting.renoise_fraction"),
    "planner.acting.soonest": (["planner=diffusion"], "2", "planner.acting.min_goal_step"),
    "planner.beta": (["planner=random"], "0.5", "planner.noise_beta"),
    "planner.decay": (["planner=cem"], "1.5", "planner.sample_decay"),
    "planner.judge": (["planner=diffusion"], "{consistency_weight: 0.5}", "planner.scorer"),
    "planner.judge.consistency": (["planner=diffusion"], "0.5", "planner.scorer.consistency_weight"),
    "planner.learner.pair": (["planner=tdmpc"], "3", "planner.learner.num_q_sampled"),
    "planner.learner.q.limit": (["planner=tdmpc"], "5.0", "planner.learner.q.symlog_limit"),
    "planner.relative": ([], "false", "planner.normalize_values"),
    "planner.search.decay": (["planner=cem_actor_critic"], "1.5", "planner.search.sample_decay"),
    "planner.search.relative": (["planner=tdmpc"], "true", "planner.search.normalize_values"),
    "prefill_planner.beta": ([], "0.5", "prefill_planner.noise_beta"),
    "trainer.log_updates": ([], "7", "trainer.log_every"),
    "trainer.watch_updates": ([], "7", "trainer.video_every"),
}


def test_an_old_group_means_the_new_one():
    assert load_config(["pictures=default"]).choices == load_config([]).choices


def test_every_renamed_word_has_a_case():
    assert CASES.keys() == RENAMED.keys()


@pytest.mark.heavy
@pytest.mark.parametrize("old", [old for old, (_, _, new) in CASES.items() if new])
def test_an_old_word_means_the_new_one_and_says_so_once(old, caplog):
    words, value, new = CASES[old]
    _say.cache_clear()
    with caplog.at_level(logging.WARNING):
        cfg = load_config([*words, f"{old}={value}"])
        load_config([*words, f"{old}={value}"])
    assert [record.args for record in caplog.records] == [(old, RENAMED[old])]
    found = OmegaConf.select(cfg, new)
    expected = OmegaConf.select(OmegaConf.from_dotlist([f"x={value}"]), "x")
    assert found == expected or OmegaConf.merge(found, expected) == found
    assert all(not word.startswith(f"{old}=") for word in cfg.words)


def test_options_of_a_renamed_node_follow_it():
    assert renamed(["dynamics.space.unimix=0.1"], list) == ["dynamics.latent.unimix=0.1"]


def test_an_old_word_may_be_current_elsewhere():
    """An option that somebody's own core calls as ours was called once is meant as it stands."""
    assert renamed(["dynamics.core.state=8"], lambda: ["dynamics.core.state"]) == ["dynamics.core.state=8"]
    assert renamed(["dynamics.core.state=8"], list) == ["dynamics.core.state_dim=8"]
