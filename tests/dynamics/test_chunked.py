"""Chunks of a diagonal state space give what all of its states give."""

from __future__ import annotations

import pytest
import torch

from dynamics.chunked import K
from dynamics.ssm import LONG, S4D, StateSpace

WIDTH, STATES = 6, 4


@pytest.fixture(params=["none", "one", "many", "first"])
def resets(request):
    reset = torch.zeros(3, LONG + 9, dtype=torch.bool)
    if request.param == "one":
        reset[1, 50] = True
    if request.param == "many":  # several in a chunk, at its ends, and side by side
        reset[0, [0, 3, 4, K - 1]] = reset[2, [K, 2 * K - 1, 70, 75, 90, LONG + 3]] = True
    if request.param == "first":
        reset[:, 0] = True
    return reset


@pytest.fixture
def space():
    torch.manual_seed(0)
    return S4D(WIDTH, STATES).double()


def given(rows, length):
    v = torch.randn(rows, length, WIDTH, dtype=torch.float64, requires_grad=True)
    return v, torch.randn(rows, WIDTH, STATES, dtype=torch.complex128, requires_grad=True)


def test_outputs_states_and_gradients_are_alike(space, resets):
    v, before = given(*resets.shape)
    weights = [v, before, *(weight for name, weight in space.named_parameters() if name != "skip")]
    found = []
    for scan in (space.scan, lambda *args: StateSpace.scan(space, *args)):
        y, _, last = scan(v, resets, before)
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + last.abs().sum()
        found.append((y, last, *torch.autograd.grad(loss, weights)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("last", [1, 9, 10, K, LONG, LONG + 9])
def test_states_are_rebuilt_from_inputs_and_ends(space, resets, last):
    v, before = given(*resets.shape)
    entries = space.scan(v, resets, before)[1]
    assert sum(value.numel() for value in entries.values()) < v.numel() * STATES / 2
    expected = space.all_states(v, resets, before)[:, -last:]
    torch.testing.assert_close(space.states(entries, resets, before, last), expected)


def test_short_sequences_keep_all_states(space):
    v, before = given(2, LONG - 1)
    assert "state" in space.scan(v, torch.zeros(2, LONG - 1, dtype=torch.bool), before)[1]
