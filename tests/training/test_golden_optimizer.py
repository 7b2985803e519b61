"""LaProp, adaptive clipping and warm-up are DreamerV3's, to the number (`tests/golden`)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from places import ROOT
from torch import nn

from worldmodels.config import load_config
from worldmodels.factory import construct
from worldmodels.training.optim import AdaptiveClip, LaProp, warmed_up

GOLDEN = np.load(ROOT / "tests" / "golden" / "dreamerv3.npz")
NAMES = ("matrix", "zero_bias", "conv", "scale")
DECAY = (0.9, 0.999)


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[f"optim/{name}"]).double()


def weights() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(golden(f"w0/{name}")) for name in NAMES}


def show(parameters: dict[str, nn.Parameter], step: int) -> None:
    for name, parameter in parameters.items():
        parameter.grad = golden(f"grad/{name}")[step].clone()


def configured() -> tuple[AdaptiveClip, partial]:
    """What `optimizer=laprop` builds."""
    cfg = load_config(["optimizer=laprop"]).optimizer
    assert cfg.warmup == 1000
    return construct(cfg.clip), lambda groups, lr: construct(cfg.build, params=groups, lr=lr)


def test_the_first_gradient_is_clipped_tensor_by_tensor():
    clip, _ = configured()
    given = weights()
    show(given, 0)
    clip([[weight] for weight in given.values()])
    for name, parameter in given.items():
        torch.testing.assert_close(parameter.grad, golden(f"clipped_first_grad/{name}"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "rates"), [("constant", (0.01,) * 3), ("warmup", (0.0, 0.005, 0.01))])
def test_three_steps_lead_where_dreamers_lead(kind, rates):
    clip, build = configured()
    given = weights()
    optimizer = build(list(given.values()), lr=0.01)
    for step, rate in enumerate(rates):
        show(given, step)
        clip([[weight] for weight in given.values()])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        for name, parameter in given.items():
            expected = golden(f"{kind}/w{step + 1}/{name}")
            torch.testing.assert_close(parameter.data, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("updates", "share"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 1.0)])
def test_rates_rise_as_dreamers_do(updates, share):
    """A warm-up of two updates, whose rates the golden ones are: 0, 0.005, 0.01."""
    assert warmed_up(2, updates) == share
    assert warmed_up(0, updates) == 1.0


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-8, 1e-10, 1e-12])
def test_gradients_of_any_size_move_weights_alike(size):
    """In fp32, against the formulas in float64: no floor hides under the root."""
    gradients = size * np.random.default_rng(0).normal(size=(2000, 3))
    weight = nn.Parameter(torch.zeros(3))
    optimizer = LaProp([weight], lr=1e-3, betas=DECAY, eps=1e-20)
    nu, mu, exact = np.zeros(3), np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(gradients, start=1):
        weight.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        nu = DECAY[1] * nu + (1 - DECAY[1]) * gradient**2
        mu = DECAY[0] * mu + (1 - DECAY[0]) * gradient / (np.sqrt(nu / (1 - DECAY[1] ** step)) + 1e-20)
        exact -= 1e-3 * mu / (1 - DECAY[0] ** step)
        if step in (1, 10, 100, 2000):
            np.testing.assert_allclose(weight.detach().numpy(), exact, rtol=2e-4, atol=1e-7)


def test_a_restart_goes_on_exactly():
    def steps(optimizer, weight, seeds):
        for seed in seeds:
            weight.grad = torch.randn(4, generator=torch.Generator().manual_seed(seed))
            optimizer.step()

    one, other = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    whole, first, second = (LaProp([p], lr=0.1) for p in (one, other, other))
    steps(whole, one, range(6))
    steps(first, other, range(3))
    second.load_state_dict(first.state_dict())
    steps(second, other, range(3, 6))
    assert torch.equal(one, other)


@pytest.mark.parametrize("words", [{"lr": -1.0}, {"lr": 1.0, "betas": (1.0, 0.9)}, {"lr": 1.0, "eps": 0.0}])
def test_laprop_refuses_what_it_cannot_be(words):
    from worldmodels.errors import OptionError

    with pytest.raises(OptionError):
        construct(OmegaConf.create({"_target_": "worldmodels.training.optim.LaProp", **words}), params=[])
