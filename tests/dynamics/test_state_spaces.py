"""S4D and S5 as differential equations: what they hold, mix and remember."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from core_cases import IN, numpy_weights

from dynamics.ssm import S4D, S5, SSM
from worldmodels.testing.sequences import randomize


@torch.no_grad()
@pytest.mark.parametrize("kind", [S5, S4D])
def test_state_space__is_its_differential_equation_held(kind):
    """x' = Lambda x + B u with u constant over a step, integrated finely by Euler in float64."""
    torch.manual_seed(0)
    space = randomize(kind(width=4, state_dim=3), scale=0.1)
    u = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    decay, scale = space.discretize()
    state, found = torch.zeros(space.shape, dtype=torch.cfloat), []
    for t in range(6):
        state = decay * state + scale * space.input_proj(u[t])
        found.append(space.output_proj(state))
    w = numpy_weights(space)
    eigenvalues, delta = -np.exp(w["rate"]) + 1j * w["frequency"], np.exp(w["log_step"])
    x, expected, fine = np.zeros(space.shape, complex), [], 20_000
    for t in range(6):
        drive = space.input_proj(u[t]).numpy()
        for _ in range(fine):
            x = x + delta / fine * (eigenvalues * x + drive)
        if kind is S5:
            c = w["out"][:, 0::2] - 1j * w["out"][:, 1::2]
            expected.append(2 * (c @ x).real)
        else:
            expected.append(2 * ((w["out"][..., 0] + 1j * w["out"][..., 1]) * x).real.sum(-1))
    np.testing.assert_allclose(torch.stack(found).numpy(), np.array(expected), rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_s5_mixes_channels_and_s4d_does_not():
    for kind, mixes in ((S5, True), (S4D, False)):
        torch.manual_seed(0)
        space = kind(width=4, state_dim=3)
        u = torch.zeros(4)
        u[1] = 1.0
        touched = (space.output_proj(space.input_proj(u)) != 0).tolist()
        assert touched == ([True] * 4 if mixes else [False, True, False, False])


@torch.no_grad()
def test_at_first_a_state_space_remembers_a_thousand_steps():
    torch.manual_seed(0)
    core = SSM(IN, 16, 1, partial(S5, state_dim=32))
    decay = core.blocks[0].space.discretize()[0].abs()
    assert decay.max() ** 1000 > 0.5
    assert decay.min() ** 100 < 0.1
