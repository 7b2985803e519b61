"""Rows have random numbers of their own, however they are grouped, and these are normal."""

from __future__ import annotations

import pytest
import torch

from planners.streams import RowStreams, normal

CPU = torch.device("cpu")


def streams(rows, seed=0):
    return RowStreams.seeded(rows, torch.Generator().manual_seed(seed), CPU)


def test_numbers_are_standard_normal_and_unrelated():
    x = streams(8).normal(200_000)
    shares = torch.histc(torch.special.ndtr(x), 50, 0, 1) / x.numel()
    assert (shares - 0.02).abs().max() < 5e-4
    assert x.mean().abs() < 0.005
    assert (torch.corrcoef(x) - torch.eye(8)).abs().max() < 0.012
    assert (x[:, 1:] * x[:, :-1]).mean().abs() < 0.005
    assert 4.5 < x.abs().max() < 5.5


def test_neighbouring_seeds_are_as_far_apart_as_any():
    x = RowStreams(torch.arange(200), range(200), [0] * 200).normal(2000)
    assert (torch.corrcoef(x) - torch.eye(200)).abs().max() < 0.15
    assert x[:, 0].std().item() == pytest.approx(1, abs=0.15)


def test_extreme_integers_are_finite():
    ends = torch.tensor([[0, -1, 2**63 - 1, -(2**63)]])
    assert normal(ends).isfinite().all()


@pytest.mark.parametrize("shape", [(3,), (5, 2), (1,)])
def test_rows_drawn_together_equal_rows_drawn_alone(shape):
    together = streams(4)
    first, second = together.normal(*shape), together.normal(*shape)
    assert not torch.equal(first, second)
    alone = streams(4)
    for row in range(4):
        one = alone.select([row])
        assert torch.equal(one.normal(*shape)[0], first[row])
        assert torch.equal(one.normal(*shape)[0], second[row])


def test_streams_go_on_as_they_stand():
    expected = streams(3).normal(6)
    used = streams(3)
    assert torch.equal(used.select(slice(1, 2)).normal(2), expected[1:2, :2])
    assert torch.equal(used.normal(2), torch.stack([expected[0, :2], expected[1, 2:4], expected[2, :2]]))
    assert torch.equal(used.select([2, 1]).normal(2), torch.stack([expected[2, 2:4], expected[1, 4:6]]))


def test_seeds_follow_from_the_generator_or_the_global_stream():
    assert torch.equal(streams(3).normal(4), streams(3).normal(4))
    assert not torch.equal(streams(3).normal(4), streams(3, seed=1).normal(4))
    before = torch.get_rng_state()
    streams(3).normal(4)
    assert torch.equal(before, torch.get_rng_state())
    RowStreams.seeded(3, None, CPU)
    assert not torch.equal(before, torch.get_rng_state())
