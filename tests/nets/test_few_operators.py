"""Operators written for few launches are what they stand for, gradients and all, and take as few as they promise."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldmodels.benchmarks.launches import counting
from worldmodels.nets.blocks import added_product, block_product, lerp
from worldmodels.nets.deferred import _Uses, weights_at_once
from worldmodels.nets.layers import BlockLinear, DenseNormAct, NetStyle
from worldmodels.nets.norms import RMSNorm


def grown(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_alike(ours, theirs, inputs):
    """Equal values, and equal gradients of a weighted sum."""
    weight = torch.randn(theirs.shape, dtype=theirs.dtype)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad((out * weight).sum(), inputs, retain_graph=True) for out in (ours, theirs))
    for our, their in zip(*gradients, strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_the_norm_is_that_of_the_root_mean_square(scale):
    norm = RMSNorm(7, 1e-4).double()
    norm.weight.data.normal_()
    x = grown(3, 5, 7)
    theirs = F.rms_norm(scale * x, (7,), norm.weight, 1e-4)
    assert_alike(norm(scale * x), theirs, (x, norm.weight))


def test_a_norm_of_nothing_is_nothing():
    norm, x = RMSNorm(4, 1e-4), torch.zeros(2, 4, requires_grad=True)
    norm(x).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 4), 100.0))


def test_norms_keep_the_precision_of_their_input():
    assert RMSNorm(4, 1e-4)(torch.randn(2, 4).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("shared", [False, True])
def test_a_block_product_is_that_of_its_blocks(shared):
    others, x, weight = grown(1 if shared else 5, 12), grown(5, 9), grown(3, 3, 4)
    blocks = [x[:, 3 * i : 3 * i + 3] @ weight[i] for i in range(3)]
    assert_alike(block_product(others, x, weight), others + torch.cat(blocks, 1), (others, x, weight))


def test_products_are_added_and_numbers_interpolated():
    others, x, weight = grown(5, 4), grown(5, 3), grown(4, 3)
    assert_alike(added_product(others, x, weight), others + x @ weight.mT, (others, x, weight))
    start, end, share = grown(5, 4), grown(5, 4), grown(5, 4)
    assert_alike(lerp(start, end, share), start + share * (end - start), (start, end, share))


class Cell(nn.Module):
    """A recurrent cell with every operator whose weights are deferred, and one whose weight is not."""

    def __init__(self, norm="rms"):
        super().__init__()
        self.dense = DenseNormAct(6, 8, NetStyle(norm=norm))
        self.blocks = BlockLinear(8, 6, 2)
        self.both = BlockLinear(6, 6, 2, shared_dim=8)
        self.added = nn.Linear(6, 6, bias=False)
        self.gain = nn.Parameter(torch.randn(6))

    def forward(self, h, x):
        inner = self.dense(h)
        h = self.blocks(inner) + self.both(h, inner)
        return torch.tanh(added_product(x, h, self.added.weight) * self.gain)

    def run(self, steps, defer):
        h, outs = torch.zeros(3, 6), []
        if defer:
            with weights_at_once(self, h) as h:
                outs = [h := self(h, x) for x in steps]
        else:
            outs = [h := self(h, x) for x in steps]
        return torch.stack(outs)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_deferred_gradients_are_the_gradients(norm):
    cell, steps = Cell(norm).double(), list(torch.randn(7, 3, 6, dtype=torch.float64))
    torch.set_default_dtype(torch.float64)
    try:
        whole = [torch.autograd.grad(cell.run(steps, d).square().sum(), list(cell.parameters())) for d in (True, False)]
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(*whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_steps_without_a_loss_are_left_out_in_every_pass():
    cell, steps = Cell(), list(torch.randn(7, 3, 6))
    ours, theirs = (cell.run(steps, defer)[:4].sum() for defer in (True, False))
    weights = list(cell.parameters())
    expected = torch.autograd.grad(theirs, weights)
    for _ in range(2):
        for one, other in zip(torch.autograd.grad(ours, weights, retain_graph=True), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_what_has_no_gradient_is_not_deferred():
    cell, steps = Cell(), list(torch.randn(3, 3, 6))
    cell.both.requires_grad_(False)
    cell.run(steps, True).sum().backward()
    assert cell.both.weight.grad is None
    assert cell.blocks.weight.grad is not None
    with torch.no_grad(), weights_at_once(cell, steps[0]) as first:
        assert first is steps[0]


@pytest.mark.parametrize("backward", [True, False])
def test_a_loop_leaves_nothing_behind(backward):
    """What is kept for gradients holds nothing of the graph that holds it: no collector would see that circle."""
    cell = Cell()
    loss = cell.run(list(torch.randn(3, 3, 6)), True).sum()
    if backward:
        loss.backward()
    del loss
    gc.collect()
    assert [found for found in gc.get_objects() if isinstance(found, _Uses)] == []


def test_deferred_weights_cost_no_operator_a_step():
    cell = Cell()

    def operators(steps):
        loss = cell.run(list(torch.randn(steps, 3, 6)), True).sum()
        with counting() as count:
            loss.backward()
        return count.operators

    few, many = operators(4), operators(8)
    assert few["aten.cat.default"] == many["aten.cat.default"] > 0
    assert many["aten.mm.default"] - few["aten.mm.default"] == 3 * 4  # by the inputs of three maps, four more steps


def test_deferred_products_are_as_narrow_as_autocast_makes_them():
    cell, steps = Cell(), list(torch.randn(5, 3, 6))
    found = []
    for defer in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cell.run(steps, defer).float().square().sum()
        found.append(torch.autograd.grad(loss, list(cell.parameters())))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * theirs.abs().max().item())
