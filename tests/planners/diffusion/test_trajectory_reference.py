"""Classifier-free guidance and the loss of trajectories against their papers' equations in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusion_reference import PREDICTIONS, clean, draw, same, schedule_of, table, target
from torch import nn

from planners.diffusion.trajectory_model import Condition, TrajectoryModel


class Network(nn.Module):
    """Stands for a denoiser: some function of noisy trajectories and conditions."""

    def __init__(self, in_dim, out_dim, cond_dim):
        super().__init__()
        self.weight = nn.Parameter(draw(in_dim + cond_dim, out_dim, seed=3))

    def forward(self, x, cond):
        return torch.cat([x, cond[:, None].expand(-1, x.shape[1], -1)], dim=-1).sin() @ self.weight


def trajectories(precision, prediction="sample", feat=3, **options):
    torch.manual_seed(0)
    labels, schedule = {"return": 1, "skill": 2}, schedule_of(precision, 20, prediction)
    made = TrajectoryModel(feat, 2, labels, schedule, Network, cond_dim=8, **options).to(precision)
    made.normalizer.mean += draw(made.size, seed=4)
    made.normalizer.variance += draw(made.size, seed=5).square()
    return made


@torch.no_grad()
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guidance_is_of_noise_too(precision, prediction):
    """Ho & Salimans 2022, eq. 6: eps = (1 + w') eps(c) - w' eps(), with w = 1 + w' here.

    Several conditions add up what each changes (Liu et al. 2022, eq. 11). The code guides what is clean, which at a
    given x_t is the same: weights sum to 1, and one follows from the other by an affine map.
    """
    made = trajectories(precision, prediction)
    step, given = torch.tensor([3, 9, 15, 19]), torch.zeros(4, 6, dtype=torch.bool)
    left, noisy = table(made.schedule)[step][:, None, None], draw(4, 6, 5).to(precision)
    values = {"return": draw(4, 1, seed=6).to(precision), "skill": torch.eye(2)[[0, 1, 0, 1]]}

    def noise(labels):
        x = made.clean(noisy, step, given, labels).double().numpy()
        return (noisy.double().numpy() - np.sqrt(left) * x) / np.sqrt(1 - left)

    def guided(weights):
        conditions = {name: Condition(values[name], weight) for name, weight in weights.items()}
        return made.guided(noisy, step, given, conditions)

    only = noise({"return": values["return"]})
    mixed = 3.5 * only - 2.5 * noise({})
    same(guided({"return": 3.5}), clean("epsilon", mixed, noisy.double().numpy(), left))
    changes = {name: noise({name: value}) - noise({}) for name, value in values.items()}
    mixed = noise({}) + 1.5 * changes["return"] - 0.5 * changes["skill"]
    same(guided({"return": 1.5, "skill": -0.5}), clean("epsilon", mixed, noisy.double().numpy(), left))


@torch.no_grad()
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("latents", [True, False], ids=["latents and actions", "actions alone"])
def test_the_loss_is_a_weighted_squared_error(precision, monkeypatch, prediction, latents):
    """Mean of |output - target|^2 over what is not given, by number: 1 for latents, w for actions.

    Where every number errs alike actions have a share s of it: w A / (w A + F) = s. Diffusion steps and noise are
    uniform and normal (Ho et al. 2020, algorithm 1); they are read off what the network was shown.
    """
    feat, actions, share, rows, length = 3, 2, 0.3, 4, 6
    made = trajectories(precision, prediction, feat, latents=latents, action_share=share, levels=2)
    shown, output = [], made._output
    monkeypatch.setattr(made, "_output", lambda *args: (shown.append(args), output(*args))[1])
    x, given = draw(rows, length, feat + actions, seed=7).to(precision), torch.zeros(rows, length, dtype=torch.bool)
    given[:, 0] = given[1, 3] = True
    found = made.loss(x, given, {"return": torch.ones(rows, 1), "skill": torch.zeros(rows, 2)})

    (noisy, step, *_), left = shown[0], table(made.schedule)
    outputs, noisy, free = output(*shown[0]).numpy(), noisy.double().numpy(), ~given.numpy()
    mean, variance = (value.double().numpy() for value in (made.normalizer.mean, made.normalizer.variance))
    z = (x.double().numpy() - mean) / np.sqrt(variance)
    weight = share / (1 - share) * feat / actions
    total, counted = np.zeros((rows, length)), 0.0
    for level in range(2):
        for row in range(rows):
            at = level * rows + row
            abar = left[step[at]]
            noise = (noisy[at] - np.sqrt(abar) * z[row]) / np.sqrt(1 - abar)
            for t in range(length):
                for number in range(feat + actions):
                    if number < feat and not (latents and free[row, t]):
                        continue
                    wanted = target(prediction, z[row, t, number], noise[t, number], abar)
                    w = weight if number >= feat else 1.0
                    total[row, t] += w * (outputs[at, t, number] - wanted) ** 2
                    counted += w
    same(found, total * rows * length / counted)


@torch.no_grad()
def test_the_loss_draws_steps_uniformly_and_noise_normally(monkeypatch):
    """Ho et al. 2020, algorithm 1: every step of the schedule, the first and the last too."""
    made, shown = trajectories(torch.float32), []
    monkeypatch.setattr(made, "_output", lambda noisy, step, *_: (shown.append((noisy, step)), noisy)[1])
    x = made.normalizer.inverse(torch.zeros(8000, 1, 5))
    made.loss(x, torch.zeros(8000, 1, dtype=torch.bool), {})
    noisy, step = (value.numpy() for value in shown[0])
    assert np.abs(np.bincount(step, minlength=20) - 400).max() < 100  # five deviations
    noise = noisy[:, 0] / np.sqrt(1 - table(made.schedule)[step])[:, None]
    np.testing.assert_allclose(np.cov(noise.T), np.eye(5), atol=0.06)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.06)
