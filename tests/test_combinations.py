"""Every backbone with every planner, on every kind of action and observation: acts, learns, is saved and resumed.

A covering set of 40 by default: every pair of a backbone and a planner, and either with every kind of action and
observation, but for variants and newcomers, which meet some. `pytest --grid` (`make test ARGS=--grid`) runs all.
"""

from __future__ import annotations

import io
from copy import deepcopy
from itertools import product

import pytest
import torch
from dynamics_cases import TINY
from model_cases import ACTION, PIXELS, STATE, batch
from omegaconf import OmegaConf
from places import CONFIGS
from planner_cases import GENERAL
from planner_cases import PLANNERS as KIND

from worldmodels.common.columns import GOAL_PREFIX
from worldmodels.config import load_config
from worldmodels.factory import build_model
from worldmodels.nets.choices import likeliest
from worldmodels.training.setup import Spaces, build_module

pytestmark = pytest.mark.contract

DYNAMICS = sorted(path.stem for path in (CONFIGS / "dynamics").glob("[!_]*.yaml"))
KINDS = list(product(("box", "discrete"), ("pixels", "state")))
BACKBONES = ("implicit", "koopman", "mamba", "rssm", "ssm", "transformer")
PLANNERS = ("actor_critic", "diffusion", "gradient", "mppi", "tdmpc")
"""Those that meet each other and every kind; newcomers, and what shares all but a few lines with these, meet some."""
SMALL = {"num_samples": 8, "num_elites": 4, "iterations": 1, "plan_horizon": 3, "replan_every": 2}
SMALL |= {"imag_horizon": 2, "policy_samples": 2, "restarts": 2, "steps": 2, "candidates": 2, "warm_candidates": 1}


def cover() -> list[tuple[str, str, str, str]]:
    """Pairs of backbones and planners, kinds in turn, so that each meets each kind."""
    cases = [
        (backbone, planner, *KINDS[(i + j) % len(KINDS)])
        for (i, backbone), (j, planner) in product(enumerate(BACKBONES), enumerate(PLANNERS))
    ]
    for other in (name for name in DYNAMICS if name not in BACKBONES):
        cases += [(other, "mppi", *KINDS[0]), (other, "actor_critic", *KINDS[3])]
    others = (name for name in GENERAL if name not in PLANNERS)
    return cases + [(("rssm", "implicit")[i % 2], name, *KINDS[i % len(KINDS)]) for i, name in enumerate(others)]


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--grid")
        cases = [(d, p, *k) for d, p, k in product(DYNAMICS, GENERAL, KINDS)] if whole else cover()
        metafunc.parametrize("case", cases, ids="-".join)


def test_the_covering_set_is_small_and_covers():
    cases = cover()
    assert len(BACKBONES) * len(PLANNERS) <= 30, "with a dozen that meet only some, CI has time for 40"
    assert {case[:2] for case in cases} >= set(product(BACKBONES, PLANNERS))
    assert {(case[0], case[2:]) for case in cases} >= set(product(BACKBONES, KINDS))
    assert {(case[1], case[2:]) for case in cases} >= set(product(PLANNERS, KINDS))
    assert {case[0] for case in cases} == set(DYNAMICS)
    assert {case[1] for case in cases} == set(GENERAL)


def configured(backbone: str, planner: str, observed: str):
    """Its configuration at the smallest size; either denoiser meets every backbone."""
    denoiser = {"pixels": "unet", "state": "transformer"}[observed]
    words = [*TINY, f"dynamics={backbone}", f"planner={planner}", f"denoiser={denoiser}", "denoiser.width=16"]
    if backbone == "transformer":
        words.append("dynamics.core.window=16")
    chosen = load_config(words).planner
    for prefix in ("", "search.", "learner.", "acting.", "learner.trajectories.schedule."):
        known = OmegaConf.select(chosen, prefix.rstrip("."), default={}) if prefix else chosen
        words += [f"planner.{prefix}{key}={value}" for key, value in SMALL.items() if key in known]
    return load_config(words)


def made(cfg, observations, discrete, folder):
    """A module and its optimiser."""
    numbers = sum(discrete) if isinstance(discrete, tuple) else ACTION
    module = build_module(cfg, folder, build_model(cfg, observations, numbers), Spaces(observations, numbers, discrete))
    module.log = lambda *_, **__: None
    module.log_dict = lambda *_, **__: None
    module.average.eval()
    return module, module.configure_optimizers()


def update(module, optimizer, rows) -> None:
    """One update as the training makes it."""
    module.training_step(rows, 0)["loss"].backward()
    optimizer.step()
    optimizer.zero_grad()
    module.after_step()


def acted(module, observations, rows, discrete, seed):
    """Three decisions for two environments."""
    model, planner = module.acting
    generator = torch.Generator().manual_seed(seed)
    state, memory, actions = model.initial(2), planner.initial(2), []
    action = torch.zeros(2, planner.action_dim)
    for t in range(3):
        first = torch.full((2,), t == 0)
        with torch.no_grad():
            frame = {key: rows[key][:, t] for key in observations}
            state = model.obs_step(frame, action, first, state, generator)
            action, memory = planner.act(model, state, memory, first, True, generator)
        actions.append(action)
    return torch.stack(actions)


def recorded(planner, observed, observations):
    """A batch, with goals where the planner is shown some, and what it observes."""
    rows = batch(size=2, length=5, observations=observations)
    if KIND[planner] == "goals":
        rows |= {GOAL_PREFIX + observed: rows[observed].flip(1)}
        observations = observations | {GOAL_PREFIX + observed: observations[observed]}
    return rows, observations


@pytest.mark.heavy
@pytest.mark.parametrize("planner", GENERAL)
def test_every_planner_takes_several_choices_at_once(planner, tmp_path):
    sizes = (2, 3)
    rows, observations = recorded(planner, "state", STATE)
    rows["action"] = likeliest(torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0)), sizes)
    module, optimizer = made(configured("rssm", planner, "state"), observations, sizes, tmp_path)
    update(module, optimizer, rows)
    taken = acted(module, observations, rows, sizes, 1)
    for choice in taken.split(sizes, -1):
        assert torch.equal(choice.sum(-1), torch.ones(3, 2))
        assert set(choice.unique().tolist()) == {0.0, 1.0}


@pytest.mark.heavy
def test_it_acts_learns_is_saved_and_taken_up_again(case, tmp_path):
    backbone, planner, actions, observed = case
    discrete, observations = actions == "discrete", PIXELS if observed == "pixels" else STATE
    cfg = configured(backbone, planner, observed)
    rows, observations = recorded(planner, observed, observations)
    if discrete:
        rows["action"] = likeliest(rows["action"], (ACTION,))
    torch.manual_seed(0)
    module, optimizer = made(cfg, observations, discrete, tmp_path)
    before = deepcopy(module.state_dict())
    update(module, optimizer, rows)
    after = module.state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved >= ({"model", "planner"} if list(module.planner.parameters()) else {"model"})
    taken = acted(module, observations, rows, discrete, 1)
    assert taken.abs().max() <= 1
    if discrete:
        assert torch.equal(taken.sum(-1), torch.ones(3, 2))

    saved = io.BytesIO()
    torch.save({"module": after, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, saved)
    update(module, optimizer, rows)
    saved.seek(0)
    checkpoint = torch.load(saved, weights_only=True)
    again, optimizer = made(cfg, observations, discrete, tmp_path)
    again.load_state_dict(checkpoint["module"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    assert torch.equal(acted(again, observations, rows, discrete, 1), taken)
    torch.set_rng_state(checkpoint["rng"])
    update(again, optimizer, rows)
    for key, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
