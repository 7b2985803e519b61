"""The planners under test, one row each, and what their tests share."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from places import CONFIGS
from true_models import Chain, LinearGaussian, WithGoal

from dynamics.base import FeatureSpec
from worldmodels.config import load_config
from worldmodels.factory import build_planner

PLANNER_CONFIGS = CONFIGS / "planner"

# One row a planner: what it does, of which tests follow.
#   blind     looks at nothing
#   samples   searches a model by trying action sequences, without learned parts: held to the optimum everywhere
#   ascends   searches along the model's gradient: held to the optimum where there is one
#   learns    acts by what it learned
#   guided    searches with what it learned
#   denoises  samples plans from a diffusion model that it learned
#   clones    learns a policy and no value
#   goals     denoises too, on the way to a goal that observations show
#   scripted  is written by hand for one environment, whose tests it has
PLANNERS = {
    "random": "blind",
    "mppi": "samples",
    "cem": "samples",
    "gradient": "ascends",
    "actor_critic": "learns",
    "tdmpc": "guided",
    "mppi_actor_critic": "guided",
    "cem_actor_critic": "guided",
    "diffusion": "denoises",
    "diffuser": "denoises",
    "decision_diffuser": "denoises",
    "cfgrl": "denoises",
    "cloning": "clones",
    "cfgrl_goals": "goals",
    "diffusion_goals": "goals",
    "waypoints": "scripted",
}
GENERAL = [name for name, kind in PLANNERS.items() if kind != "scripted"]
SEARCHING = [name for name, kind in PLANNERS.items() if kind == "samples"]
PLANNING = [name for name, kind in PLANNERS.items() if kind in ("samples", "ascends")]
LEARNING = [name for name, kind in PLANNERS.items() if kind in ("learns", "guided")]
GUIDED = [name for name, kind in PLANNERS.items() if kind == "guided"]
REPLANNING = [name for name, kind in PLANNERS.items() if kind in ("samples", "ascends", "guided")]

every = pytest.mark.parametrize("name", GENERAL)
searching = pytest.mark.parametrize("name", SEARCHING)
planning = pytest.mark.parametrize("name", PLANNING)
guided = pytest.mark.parametrize("name", GUIDED)
learning = pytest.mark.parametrize("name", LEARNING)
replanning = pytest.mark.parametrize("name", REPLANNING)
both_spaces = pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])


# The size of the search in the tests, whatever size the yaml files recommend.
DENOISE = {"steps": 3, "candidates": 2}
SEARCH = {"plan_horizon": 12, "num_samples": 256, "num_elites": 32, "iterations": 4, "replan_every": 1}


@cache
def composed(name):
    return load_config([f"planner={name}"]).planner


def options(name, **overrides):
    """A planner's configuration at the tests' size, with those of the overrides that it has."""
    config = OmegaConf.to_container(composed(name))
    search, learner = config.get("search", config), config.get("learner", config)
    wanted = SEARCH | ({"iterations": 60} if name == "gradient" else {}) | overrides
    search |= {key: value for key, value in wanted.items() if key in search}
    for part in learner.keys() & {"actor", "critic", "policy", "q", "inverse", "forward_model"}:
        if learner[part] is not None:
            learner[part] |= {"units": overrides.get("units", 16), "layers": 1}
    if "acting" in config:
        acting, model = config["acting"], learner["trajectories"]
        config["guidance"]["reward"]["weight"] = 0.0  # worlds that are known exactly have no reward head
        acting |= {key: value for key, value in (wanted | DENOISE | overrides).items() if key in acting}
        model["net"]["width"], model["schedule"]["steps"] = 16, 10
    return config


def build(name, model, terminal_value=None, **overrides):
    config = OmegaConf.create(options(name, **overrides))
    features = FeatureSpec(model.feat_dim - model.goal_dim, model.goal_dim)
    planner = build_planner(config, model.action_dim, model.discrete, features)
    if terminal_value is not None:
        planner.terminal_value = terminal_value
    return planner.eval()


def world(discrete, name=""):
    """A model and five different states of it, with goals where a planner of this name needs them."""
    model = Chain() if discrete else LinearGaussian()
    state = model.at(0, 3, 5, 1, 2) if discrete else model.start(5)
    if PLANNERS.get(name) != "goals":
        return model, state
    aimed = WithGoal(model)
    return aimed, aimed.with_goal(state, state.feat.flip(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flags(*values):
    return torch.tensor(values, dtype=torch.bool)


def none(n):
    return torch.zeros(n, dtype=torch.bool)
