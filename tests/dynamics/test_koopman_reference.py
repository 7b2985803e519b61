"""The Koopman core against the equations it names, in float64 NumPy.

A linear state under actions is Mondal et al.'s (2024), its parameters are the linear recurrent unit's (LRU, Orvieto et
al. 2023) but for the start of their spectrum.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_cases import IN, build_core, numpy_weights
from paper_cases import assert_is, named

from dynamics.koopman import Koopman

NAMES = {"nu_log": "rate", "theta": "frequency", "B": "in_proj.weight"}
SINGLE = 2e-6
"""In float32, 12 roundings of 6e-8 one after the other, and that of sqrt(1 - |lambda|^2) near 1."""


def koopman(w, x, reset):
    """x_k = Lambda x_{k-1} + gamma B u_k (LRU, eq. 7), the output the real and imaginary part of each number of x_k.

    Lambda = exp(-exp(nu_log) + i theta) (section 3.3), gamma = sqrt(1 - |Lambda|^2).
    """
    p = named(w, "", NAMES)
    eigenvalues = np.exp(-np.exp(p.nu_log) + 1j * p.theta)
    gamma = np.sqrt(1 - np.abs(eigenvalues) ** 2)
    b = p.B[0::2] + 1j * p.B[1::2]
    state, outputs = np.zeros(len(eigenvalues), complex), []
    for t in range(len(x)):
        state = (0 if reset[t] else eigenvalues * state) + gamma * (b @ x[t])
        outputs.append([part for number in state for part in (number.real, number.imag)])
    return np.array(outputs)


def test_koopman_is_the_recurrence_it_names():
    assert_is(build_core("koopman"), koopman, SINGLE)


def test_koopman__begins_on_rings_of_its_own():
    """Moduli of 0.5 to 0.999, log-uniform in 1 - |lambda|, angles of pi u^2.

    The LRU draws both uniformly, |lambda|^2 between two radii and angles up to a largest one (lemma 3.2).
    """
    torch.manual_seed(0)
    w = numpy_weights(Koopman(IN, 2000))
    moduli, angles = np.exp(-np.exp(w["rate"])), w["frequency"]
    assert (moduli.min(), moduli.max()) == pytest.approx((0.5, 0.999), abs=1e-6)
    gaps = np.diff(np.log(1 - moduli))
    np.testing.assert_allclose(gaps, np.log(0.5 / 0.001) / 1999, rtol=0.05)
    assert 0 <= angles.min() < 0.01 < 3.1 < angles.max() <= np.pi
    np.testing.assert_allclose(np.quantile(angles / np.pi, [0.25, 0.5, 0.75]), np.array([1, 4, 9]) / 16, atol=0.03)


@torch.no_grad()
def test_koopman__states_are_as_large_as_what_drives_them():
    """What gamma is for (LRU, section 3.4): under white noise E|x|^2 is |B u|^2, however slow the eigenvalue.

    It is the sum of squares of what an impulse leaves behind.
    """
    torch.manual_seed(0)
    core, length = Koopman(IN, 8), 8000  # 0.999^8000 = 3e-4
    x, reset = torch.zeros(1, length, IN), torch.zeros(1, length, dtype=torch.bool)
    x[0, 0, 0] = 1
    outputs = core.scan(x, reset, core.initial(1))[0][0].numpy()
    left = (outputs.astype(float) ** 2).sum(0).reshape(8, 2).sum(1)
    b = numpy_weights(core)["in_proj.weight"][:, 0].reshape(8, 2)
    np.testing.assert_allclose(left, (b**2).sum(1), rtol=1e-4)
