from __future__ import annotations

import inspect

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from places import python_in
from planner_cases import (
    PLANNER_CONFIGS,
    PLANNERS,
    both_spaces,
    build,
    every,
    flags,
    none,
    options,
    searching,
    seeded,
    world,
)
from true_models import LinearGaussian

from dynamics.base import State
from planners.search.proposals import color_noise
from worldmodels.errors import OptionError, UserError
from worldmodels.factory import build_planner
from worldmodels.testing.sequences import randomize

pytestmark = pytest.mark.contract


def test_the_documented_planner_finds_the_optimum():
    found = {}
    exec(python_in("planners.md", "class Ranked(MPPI)"), found)  # what a reader would run
    left_out = ("_target_", "temperature", "normalize_values")
    config = {key: value for key, value in options("mppi").items() if key not in left_out}
    model, state = world(False)
    planner = found["Ranked"](2, False, **config | {"iterations": 16, "num_samples": 1024, "min_std": 0.05})
    _, memory = planner.act(model, state, planner.initial(5), none(5), False, seeded())
    best = model.best_plan(state.feat, 12, 0.99)
    with torch.no_grad():
        top, reached, nothing = (
            model.imagine(state, plan, 12).discounted_return(0.99)
            for plan in (best, memory["actions"], torch.zeros_like(best))
        )
    assert ((top - reached) / (top - nothing)).max() < 0.05


def test_the_documented_planner_from_nothing_follows_its_best():
    found = {}
    exec(python_in("planners.md", "class Best(Planner)"), found)
    model, state = world(False)
    planner = found["Best"](2, False)
    action, memory = planner.act(model, state, planner.initial(5), none(5), False, seeded())
    [tried] = model.asked
    with torch.no_grad():
        returns = model.imagine(model.dynamics.fork(state, 64), tried, 12).discounted_return(0.99).unflatten(0, (5, 64))
    best = tried.unflatten(0, (5, 64))[range(5), returns.argmax(1)]
    assert torch.equal(action, best[:, 0])
    assert memory == {}


def test_every_config_has_a_row():
    assert {path.stem for path in PLANNER_CONFIGS.glob("[!_]*.yaml")} == set(PLANNERS)


@every
@both_spaces
def test_initialization_reaches_what_is_learned(name, discrete):
    model, _ = world(discrete, name)
    config = OmegaConf.create(options(name))
    torch.use_deterministic_algorithms(True)  # fills what is allocated and not initialised with NaN
    try:
        first, other, again = (
            build_planner(config, model.action_dim, discrete, model.feature_spec, seed) for seed in (0, 1, 0)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    for (key, a), b, c in zip(first.named_parameters(), other.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, c), key
        assert a.isfinite().all(), key
        same = not a.any() or torch.equal(a, torch.ones_like(a))  # zeros, and the scales of norms
        assert same or not (a == b).any(), key


@every
@both_spaces
@pytest.mark.parametrize("explore", [False, True])
def test_actions_fit_the_space_and_nothing_is_touched(name, discrete, explore):
    model, state = world(discrete, name)
    planner = build(name, model)
    memory = planner.initial(5)
    for _ in range(3):
        given = {key: value.clone() for key, value in memory.items()}
        stream = torch.get_rng_state()
        action, after = planner.act(model, state, memory, none(5), explore, seeded())
        assert torch.equal(stream, torch.get_rng_state())
        assert memory.keys() == after.keys() == given.keys()
        assert all(torch.equal(memory[key], given[key]) for key in given)
        assert {key: (v.shape, v.dtype) for key, v in memory.items()} == {
            key: (v.shape, v.dtype) for key, v in after.items()
        }
        assert action.shape == (5, model.action_dim)
        assert action.dtype == torch.float32
        assert action.abs().max() <= 1
        if discrete:
            assert torch.equal(action.sum(1), torch.ones(5))
            assert set(action.unique().tolist()) == {0.0, 1.0}
        memory = after


@pytest.mark.heavy
@every
@both_spaces
def test_same_seed_same_plan_other_seed_other_plan(name, discrete):
    model, state = world(discrete, name)
    planner = build(name, model)

    def run(seed):
        generator, memory, actions = seeded(seed), planner.initial(5), []
        for _ in range(6):
            action, memory = planner.act(model, state, memory, none(5), True, generator)
            actions.append(action)
        return torch.stack(actions)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.heavy
@every
@both_spaces
@pytest.mark.parametrize("replan_every", [1, 3])
@pytest.mark.parametrize("explore", [False, True])
def test_planning_together_equals_planning_one_by_one(name, discrete, replan_every, explore):
    model, state = world(discrete, name)
    planner = build(name, model, replan_every=replan_every, noise_beta=1.0, length=4)
    if not discrete:  # in a chain, ways that end alike would tie, and rounding choose among them
        randomize(planner)
    resets = [none(5), flags(0, 0, 1, 0, 0), none(5), flags(1, 0, 0, 0, 1), none(5)]
    together, generator, memory = [], seeded(), planner.initial(5)
    for reset in resets:
        action, memory = planner.act(model, state, memory, reset, explore, generator)
        together.append(action)
    generator, memories = seeded(), [planner.initial(1) for _ in range(5)]
    for reset, expected in zip(resets, together, strict=True):
        for n in range(5):
            row = state.map(lambda x, n=n: x[n : n + 1])
            action, memories[n] = planner.act(model, row, memories[n], reset[n : n + 1], explore, generator)
            torch.testing.assert_close(action[0], expected[n], atol=1e-4, rtol=0)


@pytest.mark.heavy
@every
@both_spaces
def test_evaluating_in_between_changes_no_training_action(name, discrete):
    model, state = world(discrete, name)
    planner = build(name, model)

    def run(evaluate):
        generator, memory, actions = seeded(), planner.initial(5), []
        for _ in range(4):
            action, memory = planner.act(model, state, memory, none(5), True, generator)
            actions.append(action)
            if evaluate:
                planner.act(model, state.map(lambda x: x[:2]), planner.initial(2), none(2), False, seeded(9))
        return torch.stack(actions)

    assert torch.equal(run(False), run(True))


@pytest.mark.heavy
@every
@both_spaces
@pytest.mark.parametrize("replan_every", [1, 3])
def test_a_reset_row_plans_as_if_new_and_the_others_go_on(name, discrete, replan_every):
    model, state = world(discrete, name)
    planner = build(name, model, noise_beta=2.0, replan_every=replan_every)
    _, memory = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    with_reset, after = planner.act(model, state, memory, flags(0, 0, 1, 0, 0), True, seeded(1))
    without, _ = planner.act(model, state, memory, none(5), True, seeded(1))
    fresh, anew = planner.act(model, state, planner.initial(5), none(5), True, seeded(1))
    torch.testing.assert_close(with_reset[2], fresh[2])
    for key in after:
        torch.testing.assert_close(after[key][2], anew[key][2], msg=key)
    others = flags(1, 1, 0, 1, 1)
    assert torch.equal(with_reset[others], without[others])


def test_gradient_refuses_mistaken_options_in_one_sentence():
    for key, value in {"restarts": 0, "iterations": 0, "lr": 0.0}.items():
        with pytest.raises(OptionError) as refused:
            build("gradient", LinearGaussian(), **{key: value})
        assert (refused.value.option, refused.value.value) == (key, value)
    with pytest.raises(OptionError) as refused:
        build("gradient", LinearGaussian(), replan_every=13)
    assert (refused.value.option, refused.value.value) == ("replan_every", 13)


@pytest.mark.parametrize("gradient", ["none", "straight_through"])
def test_gradients_are_refused_where_there_are_none(gradient):
    model, state = world(False)
    model.dynamics.gradient = gradient
    planner = build("gradient", model)
    with pytest.raises(UserError) as refused:
        planner.act(model, state, planner.initial(5), none(5), False, seeded())
    assert refused.value.option == {"none": None, "straight_through": "straight_through"}[gradient]
    planner = build("gradient", model, straight_through=True)
    if gradient == "straight_through":
        planner.act(model, state, planner.initial(5), none(5), False, seeded())
    else:
        with pytest.raises(UserError, match="simulator"):
            planner.act(model, state, planner.initial(5), none(5), False, seeded())


@searching
def test_mistaken_options_are_refused_in_one_sentence(name):
    config = options(name)
    planner = get_class(config.pop("_target_"))

    def refused(match, discrete=False, **overrides):
        with pytest.raises(UserError, match=match) as error:
            planner(action_dim=3, discrete=discrete, **(config | overrides))
        assert "\n" not in str(error.value)

    refused("warm_start", replan_every=12)
    refused("replan_every", replan_every=13, warm_start=False)
    refused("num_elites", num_elites=257)
    refused("iterations", iterations=0)
    refused("min_std", min_std=0.0)
    refused("min_prob", min_prob=0.4, discrete=True)
    refused("Did you mean 'num_samples'", num_sample=3)
    planner(action_dim=3, discrete=False, **(config | {"replan_every": 12, "warm_start": False}))


@both_spaces
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_random_actions_are_uniform_and_correlated_as_asked(discrete, beta):
    model, state = world(discrete)
    planner = build("random", model, noise_beta=beta, length=25)
    state = State(torch.zeros(400, 1), {})
    memory, generator, actions = planner.initial(400), seeded(), []
    for _ in range(60):
        action, memory = planner.act(model, state, memory, none(400), True, generator)
        actions.append(action)
    actions = torch.stack(actions)
    centered = actions - actions.mean()
    within = [t for t in range(59) if t % 25 != 24]
    persistence = (centered[within] * centered[[t + 1 for t in within]]).mean() / centered.square().mean()
    across = (centered[24] * centered[25]).mean() / centered.square().mean()
    assert abs(across) < 0.1
    if beta == 0:
        assert abs(persistence) < 0.02
    else:
        assert persistence > (0.25 if beta == 1 else 0.6)
    if discrete:
        torch.testing.assert_close(actions.mean(dim=(0, 1)), torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    else:
        quantiles = actions.flatten().quantile(torch.tensor([0.1, 0.5, 0.9]))
        torch.testing.assert_close(quantiles, torch.tensor([-0.8, 0.0, 0.8]), atol=0.06, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_color_noise__keeps_the_variance_and_has_the_spectrum(length):
    """An exponent of 0 changes nothing; at 1 the deviation is 1 at every length and power falls with frequency."""
    white = torch.randn(20000, length, 2, generator=seeded())
    assert torch.equal(color_noise(white, 0.0), white)
    pink = color_noise(white, 1.0)
    torch.testing.assert_close(pink.std(dim=0), torch.ones(length, 2), atol=0.03, rtol=0)
    if length == 12:
        power = torch.fft.rfft(pink, dim=1).abs().square().mean(dim=(0, 2))
        torch.testing.assert_close(power[2] / power[4], torch.tensor(2.0), atol=0.1, rtol=0)
        torch.testing.assert_close(power[1] / power[5], torch.tensor(5.0), atol=0.25, rtol=0)


@every
def test_planners_hold_no_state_between_decisions(name):
    model, state = world(False, name)
    planner = build(name, model)
    before = {key: value for key, value in vars(planner).items() if not key.startswith("_")}
    planner.act(model, state, planner.initial(5), none(5), True, seeded())
    assert {key: value for key, value in vars(planner).items() if not key.startswith("_")} == before
    assert bool(planner.state_dict()) == (PLANNERS[name] not in ("blind", "samples", "ascends"))
    assert inspect.signature(planner.act).parameters["generator"].default is None
