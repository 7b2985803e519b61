"""Activations of a style: Mish on a CPU is PyTorch's, to rounding, in every precision and at every size of input."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from worldmodels.benchmarks.launches import counting
from worldmodels.nets.activations import Mish, mish

EXTREME = [-1e30, -1e4, -100.0, -88.0, -20.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 20.0, 88.0, 100.0, 1e4, 1e30]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_mish_is_pytorchs(dtype, tolerance):
    """Values and gradients, where nothing overflows or turns into no number."""
    x = torch.cat([torch.tensor(EXTREME, dtype=dtype), torch.linspace(-30, 30, 1001, dtype=dtype)])
    found = []
    for act in (F.mish, Mish()):
        leaf = x.clone().requires_grad_()
        y = act(leaf)
        found.append((y, *torch.autograd.grad(y.sum(), leaf)))
    for ours, theirs in zip(*found[::-1], strict=True):
        assert ((ours - theirs).abs() <= tolerance * x.abs().clamp(min=1)).all()
    with torch.no_grad():
        assert torch.equal(Mish()(x), found[1][0])


def test_narrow_numbers_are_pytorchs_kernels():
    """Which computes in fp32 within: three steps in bf16 would round three times."""
    x = torch.linspace(-5, 5, 100).bfloat16()
    assert torch.equal(Mish()(x), F.mish(x))
    assert not torch.equal(mish(x), F.mish(x))


@pytest.mark.parametrize("compiling", [False, True])
def test_the_compiler_sees_one_operator(monkeypatch, compiling):
    """Which it fuses with what stands beside it."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x = torch.ones(3)
    with counting() as count:
        Mish()(x)
    assert (count.operators.total() == 1) is compiling
