"""Mamba-2 against its equations in float64 NumPy, and the choice of its fused kernel."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from core_cases import IN, build_core, inputs, layer_norm, numpy_weights, sigmoid, softplus, stepped
from refusals import refuses

from dynamics.mamba import Mamba
from dynamics.mamba_scan import _decide, chunked_scan, fused_is_exact
from worldmodels.errors import UserError
from worldmodels.testing.sequences import BATCH, randomize


@torch.no_grad()
def test_mamba_is_its_recurrence(monkeypatch):
    """One layer, several heads, step by step in NumPy."""
    monkeypatch.setattr("dynamics.mamba_scan.CHUNK", 4)
    core = randomize(Mamba(IN, 8, 1, expand=2, head_dim=4, state_dim=3, kernel=3))
    x, reset = inputs(11, share=0.2)
    outputs, _, _ = core.scan(x, reset, core.initial(BATCH))
    w = numpy_weights(core)
    m = {key.removeprefix("mixers.0."): value for key, value in w.items() if key.startswith("mixers.0.")}
    inner, heads, head, state, kernel = 16, 4, 4, 3, 3
    for row in range(BATCH):
        window, h = np.zeros((kernel, inner + 2 * state)), np.zeros((heads, head, state))
        for t in range(11):
            if reset[row, t]:
                window[:], h[:] = 0, 0
            u = w["embed.weight"] @ x[row, t].double().numpy() + w["embed.bias"]
            projected = m["in_proj.weight"] @ layer_norm(u, w["norms.0.weight"], w["norms.0.bias"])
            gate, xbc, dt = np.split(projected, [inner, 2 * inner + 2 * state])
            window = np.concatenate([window[1:], xbc[None]])
            xbc = (window * m["taps"]).sum(0) + m["bias"]
            v, b, c = np.split(xbc * sigmoid(xbc), [inner, inner + state])
            v, dt = v.reshape(heads, head), softplus(dt + m["step_bias"])
            h = np.exp(-np.exp(m["log_rate"]) * dt)[:, None, None] * h + (dt[:, None] * v)[..., None] * b
            y = (h @ c + m["skip"][:, None] * v).reshape(-1)
            y = layer_norm(y * gate * sigmoid(gate), m["norm.weight"], m["norm.bias"])
            expected = layer_norm(u + m["out.weight"] @ y, w["norm.weight"], w["norm.bias"])
            np.testing.assert_allclose(outputs[row, t].numpy(), expected, atol=1e-5)


def test_mamba_keeps_inputs_of_a_sequence_not_states():
    core = build_core("mamba")
    _, entries, last = core.scan(*inputs(20), core.initial(BATCH))
    kept, whole = (sum(v[:, 0].numel() if v.ndim == 3 else v.numel() for v in m.values()) for m in (entries, last))
    assert kept * 3 < whole


def fake_kernel(spoil: float):
    """What `mamba-ssm` offers, computed by our own scan, and made wrong by ``spoil``."""

    def combined(x, dt, a, b, c, chunk_size, initial_states, seq_idx, return_final_states):
        assert seq_idx.dtype == torch.int32
        assert return_final_states
        decay = dt * a
        y, last = chunked_scan(x * dt[..., None], decay, b[:, :, 0], c[:, :, 0], seq_idx.long(), initial_states)
        return y * (1 + spoil), last

    return combined


@pytest.mark.parametrize("asked_in", [nullcontext, torch.no_grad, partial(torch.autocast, "cpu", torch.bfloat16)])
@pytest.mark.parametrize(("spoil", "used"), [(0.0, True), (0.1, False), (float("nan"), False), (None, False)])
def test_fused_kernel__is_used_only_where_it_is_exact(monkeypatch, caplog, spoil, used, asked_in):
    """Where it is missing, or gives other numbers or NaN, plain PyTorch is used, and the log says which it is."""
    names = ["mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    if spoil is not None:
        sys.modules[names[-1]].mamba_chunk_scan_combined = fake_kernel(spoil)
    sys.modules["mamba_ssm"].__spec__ = SimpleNamespace()
    _decide.cache_clear()
    core = build_core("mamba")
    x, reset = inputs(9)
    expected = stepped(core, x, reset, core.initial(BATCH))[0]
    with caplog.at_level(logging.INFO), asked_in():
        outputs, _, _ = core.scan(x, reset, core.initial(BATCH))
    chosen = fused_is_exact(torch.device("cpu"), 4, 32, 16)
    _decide.cache_clear()
    assert chosen is used
    assert ("the fused kernel is used" if used else "plain PyTorch is used") in caplog.text
    assert (outputs - expected).abs().max() < (0.1 if isinstance(asked_in, partial) else 1e-5)


def test_heads_that_do_not_divide_are_refused():
    with refuses("head_dim", 7):
        Mamba(IN, 8, 1, expand=2, head_dim=7)


def test_mamba__rates_begin_where_asked():
    """Rates that are not two positive numbers, the smaller one first, are refused."""
    core = Mamba(IN, 16, 2, head_dim=2, decay_range=(0.25, 0.5))
    rates = torch.cat([mixer.log_rate for mixer in core.mixers]).exp()
    assert len(rates) == 32
    assert rates.min() >= 0.25 - 1e-6
    assert rates.max() <= 0.5 + 1e-6
    for rates in ((1.0,), (0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(UserError) as caught:
            Mamba(IN, 16, 1, decay_range=rates)
        assert caught.value.option == "decay_range"
