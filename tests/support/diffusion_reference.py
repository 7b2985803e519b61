"""What diffusion's papers say of noise and of what networks predict, in NumPy, and the two precisions to hold it in.

Step k of the code is step t = k + 1 of the papers, whose step 0 is the clean trajectory. diffusers keeps what is left
of the signal in float32: formulas are held with the numbers of its table, and the table by itself to its own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from planners.diffusion.noise_schedule import NoiseSchedule

EXACT = 1e-9
"""Largest error in float64, in the largest number."""
SINGLE = 2e-6
"""The same in float32: a few roundings of 6e-8 one after the other."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(schedule) -> np.ndarray:
    """What is left of the signal's variance after each step, as the code has it."""
    return schedule._scheduler.alphas_cumprod.double().numpy()


def same(found: Tensor, expected: np.ndarray) -> None:
    """Equal to what the precision of ``found`` allows, in the largest number."""
    tolerance = EXACT if found.dtype == torch.float64 else SINGLE
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def schedule_of(precision, *args) -> NoiseSchedule:
    """A schedule whose table is of a precision."""
    schedule = NoiseSchedule(*args)
    schedule._scheduler.alphas_cumprod = schedule._scheduler.alphas_cumprod.to(precision)
    return schedule


def noised(x, noise, left):
    """x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps (Ho et al. 2020, eq. 4)."""
    return np.sqrt(left) * x + np.sqrt(1 - left) * noise


def target(prediction, x, noise, left):
    """Eps (Ho et al. 2020, eq. 14), x, or v = sqrt(abar) eps - sqrt(1 - abar) x (Salimans & Ho 2022, section 4)."""
    v = np.sqrt(left) * noise - np.sqrt(1 - left) * x
    return {"epsilon": noise, "sample": x, "v_prediction": v}[prediction]


def clean(prediction, output, noisy, left):
    """x as it follows from each: for v it is sqrt(abar) x_t - sqrt(1 - abar) v (Salimans & Ho 2022, section 4)."""
    return {
        "epsilon": (noisy - np.sqrt(1 - left) * output) / np.sqrt(left),
        "sample": output,
        "v_prediction": np.sqrt(left) * noisy - np.sqrt(1 - left) * output,
    }[prediction]
