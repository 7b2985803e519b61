"""What a configuration says is held against what reads it, however late that is."""

from __future__ import annotations

import pytest
import yaml
from refusals import refuses

from worldmodels.config import load_config
from worldmodels.errors import UserError

WRONG = {
    # read when a training is over
    "env.expert.maze=foo": r"env\.expert\.maze=foo must be one of umaze, medium, large",
    "env.baseline_overrides.obs=foo": r"env\.baseline_overrides\.obs=foo must be one of .*",
    "env.baseline_overrides.stack=0": r"env\.baseline_overrides\.stack=0 must be a whole number of at least 1",
    "+env.baseline_overrides.obz=state": r"env\.baseline_overrides\.obz=state is not .* Did you mean 'obs'\?",
    # of the training itself
    "loss_scales.rep=much": r"loss_scales\.rep=much must be a number",
    "dynamics.loss_scales.rep=much": "the scale of the loss 'rep' must be a number",
    "heads.reward.loss_scales.reward=true": "the scale of the loss 'reward' must be a number",
    "optimizer.build.lr=-1": r"there is no key 'optimizer\.build\.lr'\.",
    "+optimizer.build.lr=-1": r"optimizer\.build\.lr=-1 has no effect: optimizer\.lr is the learning rate",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_options_are_refused_at_once(word):
    with pytest.raises(UserError, match=f"^{WRONG[word]}"):
        load_config(["env=maze", word])


def test_keys_that_change_for_baselines_are_converted_too():
    cfg = load_config(["env=maze", "env.baseline_overrides.stack=2.0"])
    assert isinstance(cfg.env.baseline_overrides.stack, int)
    assert load_config(["env=maze", "env.baseline_overrides=null"]).env.baseline_overrides is None


@pytest.mark.parametrize("rates", ["[1]", "[1,2,3]", "[2,1]", "[0,1]"])
def test_a_range_is_two_numbers_in_order(rates):
    with refuses("dynamics.core.decay_range", yaml.safe_load(rates)):
        load_config(["dynamics=mamba", f"dynamics.core.decay_range={rates}"])
    assert load_config(["dynamics=mamba", "dynamics.core.decay_range=[1,1]"]).dynamics.core.decay_range == [1, 1]


def test_a_loss_may_be_maximised():
    """Which takes a factor below 0."""
    assert load_config(["loss_scales.rep=-1"]).loss_scales.rep == -1


def test_the_learning_rate_may_stand_in_both_places():
    """As files of one's own have it; there is only one."""
    cfg = load_config(["optimizer.lr=0.1", "+optimizer.build.lr=${optimizer.lr}"])
    assert cfg.optimizer.build.lr == cfg.optimizer.lr == 0.1
