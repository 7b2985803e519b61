"""The block GRU by TorchRL's kernel: its arguments, held to TorchRL's own plain code, and when it is used."""

from __future__ import annotations

import importlib
import logging
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from core_cases import IN, inputs
from torchrl.modules import DreamerV3BlockGRU

from dynamics import fused, gru_scan
from dynamics.gru import GRU
from worldmodels.nets.layers import NetStyle
from worldmodels.testing.sequences import BATCH, randomize

RMS = NetStyle(norm="rms", norm_eps=1e-4)
DYNAMIC = ("dynamic_linears.0.weight", "dynamic_linears.0.bias", "dynamic_norms.0.weight")


def plain(spoil, x, deter, reset, mix, mix_bias, mix_scale, inner, gates, gates_bias, act, eps, bias, blocks, layers):
    """What the kernel computes, by the modules that TorchRL offers beside it, made wrong by ``spoil``."""
    module = DreamerV3BlockGRU(
        x.shape[-1], deter.shape[-1], projection_size=len(mix), num_blocks=blocks, num_layers=layers,
        activation_class=type(act), norm_eps=eps, update_bias=bias,
    )  # fmt: skip
    module.cell._project_input = lambda inputs: inputs
    parts = {
        **{"hidden_linear.weight": mix, "hidden_linear.bias": mix_bias, "hidden_norm.weight": mix_scale},
        **dict(
            zip(("dynamic_linears.0.weight", "dynamic_linears.0.bias", "dynamic_norms.0.weight"), inner, strict=True)
        ),
        **{"gates.weight": gates, "gates.bias": gates_bias},
    }
    outputs, last = torch.func.functional_call(module, {f"cell.{k}": v for k, v in parts.items()}, (x, deter, reset))
    return outputs * (1 + spoil), last


@pytest.fixture
def kernel(monkeypatch):
    """The kernel on a CPU: a function that sets how wrong it is, None for what cannot run."""
    monkeypatch.setattr(gru_scan, "DEVICES", ("cpu",))
    monkeypatch.setattr(fused, "_DECIDED", {})

    def install(spoil: float | None) -> None:
        run = partial(plain, spoil) if spoil is not None else refuse
        monkeypatch.setattr(importlib.import_module(gru_scan.KERNEL), "dreamer_v3_block_gru_triton", run)

    return install


def refuse(*_):
    raise RuntimeError("requires CUDA tensors.")


def build(hidden: int, style: NetStyle = RMS) -> GRU:
    torch.manual_seed(0)
    return randomize(GRU(IN, 16, hidden, 4, style))


def memory() -> dict[str, torch.Tensor]:
    return {"deter": torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(0))}


def scanned(core):
    x, reset = inputs(12)
    return core.scan(x.requires_grad_(), reset, memory())


@pytest.mark.parametrize("hidden", [3, 6, 10], ids=["wider inputs", "as wide", "narrower inputs"])
@pytest.mark.parametrize("act", ["silu", "relu"])
def test_the_kernels_arguments_are_ours(kernel, hidden, act):
    """Outputs, last memory and gradients of every weight, whichever of both is padded."""
    kernel(0.0)
    core = build(hidden, NetStyle(norm="rms", norm_eps=1e-4, act=act)).double()
    x, reset = inputs(12)
    deter = torch.randn(BATCH, 16, dtype=torch.float64)
    scans = core._loop, core._fused
    (ours, ours_by), (theirs, theirs_by) = (
        (out, torch.autograd.grad(out.square().sum(), core.parameters()))
        for out in (scan(x.double(), reset, deter) for scan in scans)
    )
    tolerance = {"rtol": 1e-5, "atol": 1e-5}  # their norms compute in fp32
    torch.testing.assert_close(theirs, ours, **tolerance)
    for (name, _), a, b in zip(core.named_parameters(), theirs_by, ours_by, strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=name)


@pytest.mark.parametrize("asked_in", [nullcontext, torch.no_grad, partial(torch.autocast, "cpu", torch.bfloat16)])
@pytest.mark.parametrize(("spoil", "used"), [(0.0, True), (0.1, False), (float("nan"), False), (None, False)])
def test_it_is_used_only_where_it_is_exact(kernel, caplog, spoil, used, asked_in):
    """Where it cannot run, or gives other numbers or NaN, plain PyTorch is used, and the log says so once."""
    kernel(spoil)
    core = build(3)
    with caplog.at_level(logging.INFO), asked_in():
        found, entries, last = scanned(core)
        scanned(core)
    assert caplog.text.count("the fused kernel is used" if used else "plain PyTorch is used") == 1
    assert core._fuses(torch.zeros(1, 1, IN)) is used
    torch.testing.assert_close(entries["deter"], found)
    torch.testing.assert_close(last["deter"], found[:, -1])
    expected = super(GRU, core).scan(*inputs(12), memory())[0]
    assert (found - expected).abs().max() < (0.1 if isinstance(asked_in, partial) else 1e-5)


@pytest.mark.parametrize("style", [NetStyle(), NetStyle(norm="rms", act="gelu")], ids=["LayerNorm", "GELU"])
def test_other_layers_than_dreamers_are_looped_over(kernel, caplog, style):
    kernel(None)
    with caplog.at_level(logging.INFO):
        scanned(build(3, style))
    assert caplog.text == ""


def test_a_device_without_the_kernel_is_not_asked(monkeypatch, caplog):
    monkeypatch.setattr(fused, "_DECIDED", {})
    with caplog.at_level(logging.INFO):
        scanned(build(3))
    assert (fused._DECIDED, caplog.text) == ({}, "")
