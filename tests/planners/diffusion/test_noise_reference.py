"""Noise schedules, what networks predict and one step of each sampler, against their papers' equations in NumPy."""

from __future__ import annotations

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusion_reference import EXACT, PREDICTIONS, clean, draw, noised, same, schedule_of, table, target
from torch import Tensor

from planners.diffusion import noise_schedule
from planners.diffusion.noise_schedule import NoiseSchedule, Sampler
from planners.streams import RowStreams

CAP = 0.95
"""Of a beta, as docs/decisions.md has it."""
TABLE = 5e-6
"""Of what is left of the signal, relative to itself: roundings of 6e-8 add up over the steps, and where beta is 0.95
that of 1 - beta counts twentyfold."""


# The schedule


def cosine(steps):
    """Nichol & Dhariwal 2021, eq. 17, and the cap of their section 3.2, there 0.999."""

    def f(t):
        return np.cos((t / steps + 0.008) / 1.008 * np.pi / 2) ** 2

    abar, left = [], 1.0
    for t in range(1, steps + 1):
        left *= 1 - min(1 - f(t) / f(t - 1), CAP)
        abar.append(left)
    return np.array(abar)


@pytest.mark.parametrize("steps", [2, 20, 100, 1000])
def test_the_schedule_is_the_cosine(steps):
    """The cap binds in the last step alone, which leaves as good as nothing of the signal."""
    schedule = NoiseSchedule(steps)
    left = table(schedule)
    np.testing.assert_allclose(left, cosine(steps), rtol=TABLE)
    np.testing.assert_allclose(schedule.noise_share(torch.arange(steps)), 1 - left, atol=1e-7)
    assert np.flatnonzero(schedule.betas > CAP - 1e-6).tolist() == [steps - 1]
    assert steps == 2 or left[-1] < 2e-3


# What networks are to predict


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_prediction__targets_and_what_they_stand_for(precision, prediction):
    """At the first step, in the middle and at the last; and a network that is right stands for what was noised."""
    schedule, step = schedule_of(precision, 100, prediction), torch.tensor([0, 50, 99])
    left = table(schedule)[step][:, None, None]
    x, noise, output = (draw(3, 4, 2, seed=seed).to(precision) for seed in range(3))
    noisy = noised(*(value.double().numpy() for value in (x, noise)), left)
    same(schedule.add_noise(x, noise, step), noisy)
    wanted = target(prediction, x.double().numpy(), noise.double().numpy(), left)
    same(schedule.target(x, noise, step), wanted)
    same(
        schedule.clean(output, torch.from_numpy(noisy).to(precision), step),
        clean(prediction, output.numpy(), noisy, left),
    )
    np.testing.assert_allclose(clean(prediction, wanted, noisy, left), x.numpy(), atol=1e-9)


# Samplers


def ddim(x, estimate, left, then, draws):
    """Song et al. 2021, eq. 12 with sigma = 0: the estimate, noised again by the noise that it implies."""
    noise = (x - np.sqrt(left) * estimate) / np.sqrt(1 - left)
    return np.sqrt(then) * estimate + np.sqrt(1 - then) * noise


def ddpm(x, estimate, left, then, draws):
    """Ho et al. 2020, eq. 7 with sigma^2 = beta (section 3.2); beta of a longer step is what it destroys in all."""
    beta = 1 - left / then
    mean = np.sqrt(then) * beta * estimate + np.sqrt(1 - beta) * (1 - then) * x
    return mean / (1 - left) + np.sqrt(beta) * draws


class Dpm:
    """DPM-Solver++(2M) in its data's terms (Lu et al. 2022, algorithm 2), which remembers one estimate."""

    def __init__(self):
        self.before = None

    def __call__(self, x, estimate, left, then, draws):
        def log_ratio(abar):
            return np.log(np.sqrt(abar / (1 - abar)))

        h, guess = log_ratio(then) - log_ratio(left), estimate
        if self.before is not None:
            earlier, h_before = self.before
            ratio = h_before / h
            guess = (1 + 1 / (2 * ratio)) * estimate - 1 / (2 * ratio) * earlier
        self.before = (estimate, h)
        return np.sqrt((1 - then) / (1 - left)) * x - np.sqrt(then) * (np.exp(-h) - 1) * guess


def doubling(name):
    """diffusers' class, whose tables are float64 once they are made."""

    def make(*args, **options):
        scheduler = getattr(diffusers, name)(*args, **options)
        for key, value in vars(scheduler).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(scheduler, key, value.double())
        return scheduler

    return make


def sampled(monkeypatch, name, steps):
    """What a sampler with some network was at, what it took to be clean and drew, at each step; and its schedule."""
    names = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
    monkeypatch.setattr(noise_schedule, "diffusers", lambda: SimpleNamespace(**{k: doubling(k) for k in names}))
    schedule, seen, draws = NoiseSchedule(100), [], []

    def network(x, step):
        estimate = 0.6 * x + x.sin() - 0.01 * step
        seen.append((int(step), x.numpy(), estimate.numpy()))
        return estimate

    monkeypatch.setattr(noise_schedule, "moves", noise_schedule.moves.__wrapped__)  # not those of before, in float32
    streams = RowStreams.seeded(3, torch.Generator().manual_seed(0), torch.device("cpu"))
    fresh = streams.normal
    monkeypatch.setattr(streams, "normal", lambda *shape: draws.append(fresh(*shape)) or draws[-1])
    end = Sampler(schedule, name, steps)(network, (3, 4, 2), streams, torch.device("cpu"), draw(3, 4, 2))
    assert [step for step, _, _ in seen] == list(range(99, -1, -100 // steps))
    same(end, seen[-1][2])  # the last estimate is the sample: abar of step 0 is 1
    assert len(draws) == 1, "all steps draw at once"
    noises = [noise.flatten(0, 1).numpy() for noise in draws[0].unbind(2)[1:]]
    assert len(noises) == (steps - 1 if name == "ddpm" else 0)
    return table(schedule), seen, noises or [None] * steps


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize(
    ("name", "move", "tolerance"), [("ddim", ddim, EXACT), ("ddpm", ddpm, EXACT), ("dpm", Dpm, 1e-5)]
)
def test_sampler__steps_are_its_papers(monkeypatch, name, move, tolerance, steps):
    """DPM-Solver++ keeps ratios of noise and signal in float32, wherever its tables are."""
    left, seen, draws = sampled(monkeypatch, name, steps)
    move = move() if move is Dpm else move
    for (now, x, estimate), (then, found, _), noise in zip(seen[:-1], seen[1:], draws, strict=False):
        expected = move(x, estimate, left[now], left[then], noise)
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
