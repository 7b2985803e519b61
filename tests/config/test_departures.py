"""A run that is called a published algorithm says what it does otherwise."""

from __future__ import annotations

import pytest

from worldmodels.config.compose import load_config
from worldmodels.config.departures import departures


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["experiment=dreamerv3_state"], []),
        (["experiment=dreamerv3_state", "protocol=scores", "env.task=walker_walk", "seed=3", "frames=5e4"], []),
        (["experiment=dreamerv3_state", "nets.norm=rms", "encoder=pooled"], []),
        (["experiment=dreamerv3_state", "optimizer=adam"], ["optimizer=adam instead of laprop"]),
        (
            ["experiment=dreamerv3", "protocol=scores", "train_ratio=64", "size=s"],
            ["train_ratio=64.0 instead of 512.0", "size=s instead of xxl"],
        ),
        (["experiment=dreamer_cpu", "optimizer=laprop"], []),
        (
            ["experiment=dreamerv3_state", "loss_scales.rep=0.3", "loss_scales.dyn=1"],
            ["loss_scales.rep=0.3 instead of 0.1"],
        ),
        (["experiment=tdmpc2", "planner=mppi"], ["planner=mppi instead of tdmpc"]),
        (["optimizer=laprop"], []),
    ],
)
def test_departures_are_told(words, told):
    assert departures(load_config(words)) == told
