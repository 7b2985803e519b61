"""Copies with narrow weights compute what autocast computes, and follow what they were copied from."""

from __future__ import annotations

import pytest
import torch
from model_cases import ACTION, BOTH, batch, model
from torch import nn

from worldmodels.common import precision
from worldmodels.errors import OptionError
from worldmodels.nets.averages import WeightAverage
from worldmodels.nets.narrow import NARROWED, NarrowCopy

CPU = torch.device("cpu")


def filtered(world):
    """A latent of one frame and one step of imagination behind it, without draws."""
    world.dynamics.sample = False
    rows = {key: value[:, 0] for key, value in batch(observations=BOTH).items()}
    size = len(rows["action"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state = world.obs_step(rows, rows["action"], torch.ones(size, dtype=torch.bool), world.initial(size))
        return world.dynamics.img_step(torch.zeros(size, ACTION), state).feat


@pytest.mark.parametrize(
    "words", [(), ("nets.norm=rms",), ("dynamics=implicit",), ("dynamics=ssm",), ("dynamics=mamba",)]
)
def test_a_narrow_copy_is_what_autocast_computes(words):
    world = model(*words, observations=BOTH).eval()
    copied = NarrowCopy(world, torch.bfloat16).module
    assert any(p.dtype == torch.bfloat16 for p in copied.parameters())
    assert copied.initial(2).feat.dtype == torch.float32
    ours, theirs = filtered(copied), filtered(world)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)


def test_norms_and_what_is_no_product_stay_wide():
    copied = NarrowCopy(model(observations=BOTH), torch.bfloat16).module
    for layer in copied.modules():
        wide = {p.dtype for p in layer.parameters(recurse=False)} == {torch.float32}
        assert wide or not list(layer.parameters(recurse=False)) or isinstance(layer, NARROWED)


def test_a_narrow_copy_follows_when_told():
    source = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    made = NarrowCopy(source, torch.bfloat16)
    source[0].weight.data.fill_(1.5)
    source[1].running_mean.fill_(4.0)
    assert not (made.module[0].weight == 1.5).all()
    made.follow()
    assert (made.module[0].weight == 1.5).all()
    assert (made.module[1].running_mean == 4.0).all()
    assert not any(p.requires_grad for p in made.module.parameters())


@pytest.mark.parametrize(("flags", "expected"), [({}, "fp32"), ({"avx512_bf16": True}, "bf16")])
def test_acting_is_narrow_where_the_processor_is(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert precision.acting("auto", CPU) == expected
    assert precision.acting("fp32", CPU) == "fp32"
    assert precision.acting("bf16", CPU) == "bf16"


# Averages


def test_where_nothing_is_kept_weights_are_shared():
    source = nn.Linear(2, 2)
    average = WeightAverage(source, 0.0)
    assert average.module is not source
    assert average.module.weight is source.weight
    average.eval()
    assert source.training
    assert all(weight.requires_grad for weight in source.parameters())


def test_an_average_counts_on_where_it_was_saved():
    source = nn.Linear(2, 2)
    one, other = WeightAverage(source, 0.9), WeightAverage(source, 0.9)
    for _ in range(3):
        one.update(source)
    other.load_state_dict(one.state_dict())
    assert other.done == int(other.n_averaged) == 3


def test_averages_take_buffers_as_they_are():
    source = nn.BatchNorm1d(3)
    average = WeightAverage(source, 0.9)
    source.running_mean.fill_(2.0)
    average.update(source)
    source.running_mean.fill_(5.0)
    average.update(source)
    assert (average.module.running_mean == 5.0).all()


def test_a_share_beyond_one_is_refused():
    with pytest.raises(OptionError, match="ema_decay"):
        WeightAverage(nn.Linear(1, 1), 1.0)
