"""S5 and S4D against their papers' equations in float64 NumPy.

S5 (Smith et al. 2023) is written with both halves of its conjugate pairs and no trick; S4D (Gu et al. 2022) as the
convolution that its paper trains, over the inputs since the latest reset.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_cases import build_core, gelu, layer_norm, numpy_weights, sigmoid
from paper_cases import assert_is, named

from dynamics.ssm import S4D, S5, hippo_eigenvalues

NAMES = {
    "log_decay": "space.rate",
    "omega": "space.frequency",
    "log_delta": "space.log_step",
    "C": "space.out",
    "D": "space.skip",
    "W": "gate.weight",
    "b": "gate.bias",
    "scale": "norm.weight",
    "shift": "norm.bias",
}
LAYERS = 2
SINGLE = 5e-6
"""In float32, 40 roundings of 6e-8 one after the other: two layers of sums over 32 channels and 12 steps."""


def pairs(half):
    """Both halves of conjugate pairs, along the axis of states, which is the last."""
    return np.concatenate([half, half.conj()], axis=-1)


def held(eigenvalues, delta):
    """Zero-order hold (S5, eq. 6): Lambda_bar = exp(Lambda Delta), and what B is multiplied by to be B_bar."""
    decay = np.exp(eigenvalues * delta)
    return decay, (decay - 1) / eigenvalues


def s5(p, v, reset):
    """x_k = Lambda_bar x_{k-1} + B_bar v_k, y_k = C x_k + D v_k (S5, eq. 2 of the diagonal system)."""
    eigenvalues = pairs(-np.exp(p.log_decay) + 1j * p.omega)
    decay, scale = held(eigenvalues, np.concatenate([np.exp(p.log_delta)] * 2))
    b = scale[:, None] * pairs((p.B[0::2] + 1j * p.B[1::2]).T).T
    c = pairs(p.C[:, 0::2] - 1j * p.C[:, 1::2])
    x, y = np.zeros(len(eigenvalues), complex), []
    for t in range(len(v)):
        x = (0 if reset[t] else decay * x) + b @ v[t]
        assert np.abs((c @ x).imag).max() < 1e-12
        y.append((c @ x).real + p.D * v[t])
    return np.stack(y)


def s4d(p, v, reset):
    """y = K * v + D v, K_l = sum_n C_n A_bar_n^l B_bar_n with B = 1, each channel by itself (S4D, section 3)."""
    y = np.zeros_like(v)
    for channel in range(v.shape[1]):
        eigenvalues = pairs(-np.exp(p.log_decay) + 1j * p.omega)
        decay, b = held(eigenvalues, np.exp(p.log_delta[channel, 0]))
        c, begin = pairs(p.C[channel, :, 0] + 1j * p.C[channel, :, 1]), 0
        for t in range(len(v)):
            begin = t if reset[t] else begin
            kernel = [(c * decay**lag * b).sum().real for lag in range(t - begin + 1)]
            past = sum(kernel[t - s] * v[s, channel] for s in range(begin, t + 1))
            y[t, channel] = past + p.D[channel] * v[t, channel]
    return y


def deep(space, names):
    """Layers on a residual stream, as docs/algorithms/ssm.md has them: u + GLU(W GELU(y)), y of norm(u)."""

    def core(w, x, reset):
        u = x @ w["embed.weight"].T + w["embed.bias"]
        for i in range(LAYERS):
            p = named(w, f"blocks.{i}.", names)
            y = gelu(space(p, layer_norm(u, p.scale, p.shift), reset))
            value, gate = np.split(y @ p.W.T + p.b, 2, axis=-1)
            u = u + value * sigmoid(gate)
        return layer_norm(u, w["norm.weight"], w["norm.bias"])

    return core


def test_s5_is_its_papers():
    core = build_core("ssm")
    assert isinstance(core.blocks[0].space, S5)
    assert_is(core, deep(s5, {**NAMES, "B": "space.in_proj"}), SINGLE)


def test_s4d_is_its_papers():
    core = build_core("s4d")
    assert isinstance(core.blocks[0].space, S4D)
    assert_is(core, deep(s4d, NAMES), SINGLE)


# How they begin


def normal_hippo(size):
    """A + P P^T of HiPPO-LegS (S5, section 2.3; S4D, section 4): normal, and so diagonal in a unitary basis."""
    n = np.arange(size)
    legs = -np.sqrt(np.outer(2 * n + 1, 2 * n + 1)) * np.tri(size, k=-1) - np.diag(n + 1.0)
    low_rank = np.sqrt(n + 0.5)
    return legs + np.outer(low_rank, low_rank)


def test_hippo_is_diagonalised():
    eigenvalues, vectors = (x.numpy() for x in hippo_eigenvalues(8))
    np.testing.assert_allclose(normal_hippo(16) @ vectors, vectors * eigenvalues, atol=1e-10)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(8), atol=1e-12)
    assert (eigenvalues.imag > 0).all()
    np.testing.assert_allclose(eigenvalues.real, -0.5)


@pytest.mark.parametrize("kind", [S5, S4D])
def test_state_spaces__begin_with_the_spectrum_of_hippo(kind):
    """One block of it: its eigenvalues with positive imaginary part, all real parts -1/2. For S4D it is S4D-LegS."""
    w = numpy_weights(kind(width=4, state_dim=8))
    found = -np.exp(w["rate"]) + 1j * w["frequency"]
    expected = np.linalg.eigvals(normal_hippo(16))
    expected = expected[expected.imag > 0]
    np.testing.assert_allclose(found, expected[np.argsort(expected.imag)], rtol=1e-6)


@pytest.mark.parametrize("kind", [S5, S4D])
def test_state_spaces__steps_begin_log_uniform(kind):
    """Between 0.001 and 0.1, for each state of S5 and for each channel of S4D. D is of deviation 1."""
    torch.manual_seed(0)
    w = numpy_weights(kind(width=4000, state_dim=4) if kind is S4D else kind(width=4, state_dim=200))
    assert w["log_step"].shape == ((4000, 1) if kind is S4D else (200,))
    steps = w["log_step"].ravel() / np.log(10)
    assert -3 <= steps.min() < -2.9 < -1.1 < steps.max() <= -1
    np.testing.assert_allclose(np.quantile(steps, [0.25, 0.5, 0.75]), [-2.5, -2, -1.5], atol=0.15)


def test_s5__begins_in_the_basis_of_its_eigenvectors():
    """B = V^H times a real matrix of variance 1 / width, and C = a real matrix of variance 1 / states times V."""
    torch.manual_seed(0)
    width, states = 300, 128
    w = numpy_weights(S5(width=width, state_dim=states // 2))
    vectors = hippo_eigenvalues(states // 2)[1].numpy()
    b, c = w["in_proj"][0::2] + 1j * w["in_proj"][1::2], w["out"][:, 0::2] - 1j * w["out"][:, 1::2]
    real_b, real_c = 2 * (vectors @ b).real, 2 * (c @ vectors.conj().T).real
    np.testing.assert_allclose([real_b.var() * width, real_c.var() * states, w["skip"].var()], 1, atol=0.15)


def test_s4d__begins_with_unit_complex_outputs():
    torch.manual_seed(0)
    w = numpy_weights(S4D(width=500, state_dim=16))
    np.testing.assert_allclose([(w["out"] ** 2).sum(-1).mean(), w["skip"].var()], 1, atol=0.15)
