"""Tiny cores, sequences for them, and layers in float64 NumPy to hold them against."""

from __future__ import annotations

import math

import numpy as np
import torch
from dynamics_cases import config, subjects
from hydra.utils import instantiate

from dynamics.base import Core
from worldmodels.testing.sequences import BATCH, randomize, sequences

IN = 6
CORES = sorted({subject.name for subject in subjects() if subject.posterior})


def build_core(name: str, **options) -> Core:
    torch.manual_seed(0)
    return randomize(instantiate(config(name).dynamics.core)(in_dim=IN, **options))


def inputs(length: int, seed: int = 0, share: float = 0.2):
    data = sequences(length, seed, share)
    x = torch.randn(BATCH, length, IN, generator=torch.Generator().manual_seed(seed))
    return x, data.reset


def stepped(core, x, reset, memory):
    outputs = []
    for t in range(x.shape[1]):
        output, memory = core.step(x[:, t], reset[:, t], memory)
        outputs.append(output)
    return torch.stack(outputs, dim=1), memory


def numpy_weights(module):
    return {key: value.detach().double().numpy() for key, value in module.state_dict().items()}


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def rms_norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def softplus(x):
    return np.log1p(np.exp(x))
