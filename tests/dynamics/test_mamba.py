"""What Mamba-2 keeps, the choice of its fused kernel, and the options it refuses."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch
from core_cases import IN, build_core, inputs, stepped
from refusals import refuses

from dynamics.fused import _DECIDED
from dynamics.mamba import Mamba
from dynamics.mamba_scan import chunked_scan, fused_is_exact
from worldmodels.errors import UserError
from worldmodels.testing.sequences import BATCH


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
    _DECIDED.clear()
    core = build_core("mamba")
    x, reset = inputs(9)
    expected = stepped(core, x, reset, core.initial(BATCH))[0]
    with caplog.at_level(logging.INFO), asked_in():
        outputs, _, _ = core.scan(x, reset, core.initial(BATCH))
    chosen = fused_is_exact(torch.device("cpu"), 4, 32, 16)
    _DECIDED.clear()
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
