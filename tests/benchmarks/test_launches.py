"""Operators and waits are counted as they are, and those of an update, a plan and a frame never creep back."""

from __future__ import annotations

import json

import pytest
import torch

from worldmodels.benchmarks.launches import SUBJECTS, count_all, counting, measure
from worldmodels.errors import UserError

CEILINGS = {
    "default": {"update": (2720, 0), "plan": (2490, 0), "frame": (55, 0)},
    "planner=tdmpc": {"update": (3080, 0), "plan": (3330, 0), "frame": (55, 0)},
    "planner=diffusion": {"update": (3150, 0), "plan": (1680, 0), "frame": (55, 0)},
    "planner=gradient": {"update": (2720, 0), "plan": (12800, 0), "frame": (55, 0)},
    "dreamerv3": {"update": (8356, 0), "plan": (50, 0), "frame": (90, 0)},
    "dreamerv3_state": {"update": (8300, 0), "plan": (50, 0), "frame": (80, 0)},
    "tdmpc2": {"update": (830, 0), "plan": (1690, 0), "frame": (16, 0)},
}
"""Operators and waits at most. Of a Mish, which a GPU has in one, a CPU makes seven."""


def test_views_are_no_operators_and_backward_passes_are_counted():
    weight = torch.ones(3, requires_grad=True)
    with counting() as count:
        (weight.view(3, 1)[1:] * 2).sum().backward()
    assert count.operators["aten.mul.Tensor"] == 2
    assert not any("view" in name or "slice.Tensor" in name for name in count.operators)
    assert count.waits.total() == 0
    assert count.moved > 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: float(x.mean()),
    ],
)
def test_whatever_the_host_must_know_is_a_wait(wait):
    x = torch.ones(4)
    with counting() as count:
        wait(x)
    assert count.waits.total() >= 1


def test_indices_that_are_numbers_wait_for_nothing():
    x = torch.ones(4)
    with counting() as count:
        x[torch.tensor([0, 2])] + x[2:]
    assert count.waits.total() == 0


@pytest.mark.heavy
@pytest.mark.parametrize("subject", CEILINGS)
def test_operators_and_waits_stay_below_their_ceilings(subject):
    found = count_all(SUBJECTS[subject])
    for part, (operators, waits) in CEILINGS[subject].items():
        assert found[part]["operators"] <= operators, part
        assert found[part]["waits"] <= waits, part


@pytest.mark.heavy
def test_counts_are_written_and_subjects_are_known(tmp_path):
    result = measure(["size=xxs"], only=["dynamics=koopman"], to=str(tmp_path / "counts.json"))
    assert json.loads((tmp_path / "counts.json").read_text()) == result
    assert result["subjects"][0]["update"]["operators"] > 100
    with pytest.raises(UserError, match="Did you mean 'dynamics=mamba'"):
        measure([], only=["dynamics=mambo"])
