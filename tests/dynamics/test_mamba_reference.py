"""Mamba-2 (Dao and Gu 2024) against its equations in float64 NumPy: the plain recurrence, no chunks, no kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_cases import IN, build_core, layer_norm, numpy_weights, rms_norm, sigmoid, softplus
from paper_cases import assert_is, named

from dynamics.mamba import Mamba
from worldmodels.nets.layers import NetStyle

NAMES = {
    "W_in": "in_proj.weight",
    "taps": "taps",
    "tap_bias": "bias",
    "dt_bias": "step_bias",
    "A_log": "log_rate",
    "D": "skip",
    "W_out": "out.weight",
}
LAYERS, HEADS, HEAD, STATES, KERNEL = 2, 8, 8, 16, 4
INNER = HEADS * HEAD
SINGLE = 1e-5
"""In float32, 100 roundings of 6e-8: two layers, each of sums over 32 and 64 channels, a scan and two norms."""


def silu(x):
    return x * sigmoid(x)


def mixer(p, u, reset, norm):
    """Figure 6, with one group of B and C: [z, x, B, C, dt] = W_in u, then conv, SiLU, the state space, gate, norm."""
    window, state, outputs = np.zeros((KERNEL, INNER + 2 * STATES)), np.zeros((HEADS, HEAD, STATES)), []
    for t in range(len(u)):
        if reset[t]:
            window, state = np.zeros_like(window), np.zeros_like(state)
        z, inputs, dt = np.split(p.W_in @ u[t], [INNER, 2 * INNER + 2 * STATES])
        window = np.concatenate([window[1:], inputs[None]])
        x, b, c = np.split(silu((window * p.taps).sum(0) + p.tap_bias), [INNER, INNER + STATES])
        x, dt, y = x.reshape(HEADS, HEAD), softplus(dt + p.dt_bias), np.zeros((HEADS, HEAD))
        for head in range(HEADS):
            # h_t = exp(dt A) h_{t-1} + dt B x_t, y_t = C h_t + D x_t (eq. 2), A one number a head
            decay = np.exp(-np.exp(p.A_log[head]) * dt[head])
            state[head] = decay * state[head] + dt[head] * np.outer(x[head], b)
            y[head] = state[head] @ c + p.D[head] * x[head]
        outputs.append(p.W_out @ norm(y.reshape(-1) * silu(z), p))
    return np.stack(outputs)


def layers(norm, names):
    """Pre-norm residual mixers between an embedding and a norm; ``norm`` as :class:`NetStyle` has it."""

    def normed(x, p):
        return norm(x, *(getattr(p, name) for name in names))

    def core(w, x, reset):
        u = x @ w["embed.weight"].T + w["embed.bias"]
        for i in range(LAYERS):
            inner = named(w, f"mixers.{i}.", NAMES | {name: f"norm.{name}" for name in names})
            outer = named(w, f"norms.{i}.", {name: name for name in names})
            u = u + mixer(inner, normed(u, outer), reset, normed)
        return normed(u, named(w, "norm.", {name: name for name in names}))

    return core


@pytest.mark.parametrize(
    ("style", "norm", "names"),
    [
        ("layer", layer_norm, ("weight", "bias")),  # the default here
        ("rms", rms_norm, ("weight",)),  # the paper's
    ],
    ids=["layer", "rms"],
)
def test_mamba_is_its_papers(style, norm, names):
    core = build_core("mamba", head_dim=HEAD, style=NetStyle(norm=style))
    assert core.mixers[0].heads == HEADS
    assert_is(core, layers(norm, names), SINGLE)


def test_mamba__begins_as_published():
    """-A uniform in 1 to 16, dt log-uniform in 0.001 to 0.1, D of 1, taps as nn.Conv1d has them.

    Biases of the convolution are zero, those of nn.Conv1d uniform as its taps.
    """
    torch.manual_seed(0)
    w = {key.removeprefix("mixers.0."): value for key, value in numpy_weights(Mamba(IN, 1000, 1, head_dim=1)).items()}
    rates, steps = np.exp(w["log_rate"]), np.log10(softplus(w["step_bias"]))
    assert 1 <= rates.min() < 1.1 < 15.9 < rates.max() <= 16
    np.testing.assert_allclose(np.quantile(rates, [0.25, 0.5, 0.75]), [4.75, 8.5, 12.25], atol=0.5)
    assert -3 - 1e-6 <= steps.min() < -2.98 < -1.02 < steps.max() <= -1 + 1e-6
    np.testing.assert_allclose(np.quantile(steps, [0.25, 0.5, 0.75]), [-2.5, -2, -1.5], atol=0.1)
    assert (w["skip"] == 1).all()
    assert 0.49 < np.abs(w["taps"]).max() <= 0.5  # 1 / sqrt(kernel)
    assert w["taps"].var() == pytest.approx(1 / 12, rel=0.05)
    assert not w["bias"].any()
