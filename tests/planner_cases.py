"""The planners under test, one row each, and what their tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from true_models import Chain, LinearGaussian

CONFIGS = Path(__file__).parents[1] / "configs" / "planner"

# One row a planner. True: it searches with the model, without learned parts, so that it is held to the optimum too.
PLANNERS = {"random": False, "mppi": True, "cem": True}
SEARCHING = [name for name, searches in PLANNERS.items() if searches]

every = pytest.mark.parametrize("name", PLANNERS)
searching = pytest.mark.parametrize("name", SEARCHING)
both_spaces = pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])


# The size of the search in the tests, whatever size the yaml files recommend.
SEARCH = {"plan_horizon": 12, "num_samples": 256, "num_elites": 32, "iterations": 4, "replan_every": 1}


def options(name, **overrides):
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    wanted = SEARCH | overrides
    return config | {key: value for key, value in wanted.items() if key in config or key == "terminal_value"}


def build(name, model, **overrides):
    return instantiate(options(name, **overrides), action_dim=model.action_dim, discrete=model.discrete)


def world(discrete):
    """A model and five different states of it."""
    if discrete:
        model = Chain()
        return model, model.at(0, 3, 5, 1, 2)
    model = LinearGaussian()
    return model, model.start(5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flags(*values):
    return torch.tensor(values, dtype=torch.bool)


def none(n):
    return torch.zeros(n, dtype=torch.bool)
