from __future__ import annotations

import pytest
import torch
from planner_cases import GUIDED, SEARCHING, both_spaces, build, guided, none, planning, searching, seeded, world
from true_models import Chain, LinearGaussian

from dynamics.base import State
from planners.base import require_actions
from worldmodels.model import Trajectory


class Rounded(LinearGaussian):
    """Rewards in 64ths, so that float32 adds 1e4 to a sum of them without rounding."""

    def step(self, feat, action):
        feat, reward, cont = super().step(feat, action)
        return feat, (reward * 64).round() / 64, cont


def told(name, model, value):
    """A search for which every state has the same value, by what it learned or else by ``terminal_value``."""
    torch.manual_seed(0)
    if name not in GUIDED:
        return build(name, model, gamma=1.0, terminal_value=lambda feat: torch.full_like(feat[:, 0], value))
    planner = build(name, model, gamma=1.0)
    planner.learner.value = lambda feat, noise: torch.full(feat.shape[:2], value)
    return planner


@pytest.mark.parametrize("name", SEARCHING + GUIDED)
@pytest.mark.parametrize("explore", [False, True])
def test_adding_to_all_values_changes_nothing(name, explore):
    model = Rounded()
    state = model.start(5)

    def run(offset):
        planner = told(name, model, offset)
        return planner.act(model, state, planner.initial(5), none(5), explore, seeded())[0]

    assert torch.equal(run(0.0), run(1e4))


@planning
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_an_error(name, bad):
    class Broken(LinearGaussian):
        def step(self, feat, action):
            feat, reward, cont = super().step(feat, action)
            return feat, torch.where(action[:, 0] > 0.9, bad, reward), cont

    model = Broken()
    planner = build(name, model)
    with pytest.raises(FloatingPointError, match="not finite"):
        require_actions(planner.act(model, model.start(5), planner.initial(5), none(5), False, seeded())[0])


@guided
def test_what_a_learner_says_that_is_not_finite_is_an_error(name):
    model = LinearGaussian()
    planner = told(name, model, float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        require_actions(planner.act(model, model.start(5), planner.initial(5), none(5), False, seeded())[0])


@pytest.mark.parametrize("discrete", [False, True])
def test_returns_are_exact_on_the_chain(discrete):
    model, gamma = Chain(goal=6, discrete=discrete), 0.9
    moves = torch.tensor([[1] * 5, [1] * 5, [-1] * 5, [0, 1, 1, 0, 1]])
    with torch.no_grad():
        trajectory = model.imagine(model.at(3, 0, 1, 4), model.actions(moves), 5)
    crumbs = sum(model.crumb * gamma**t for t in range(5))
    expected = torch.tensor([gamma**2, 0.0, crumbs, gamma**2])
    torch.testing.assert_close(trajectory.discounted_return(gamma), expected)
    # Beyond the goal there is nothing to bootstrap from; elsewhere the value counts from the last cell.
    ends = torch.tensor([0.0, gamma**5 * gamma**0, gamma**5 * gamma**5, 0.0])
    torch.testing.assert_close(trajectory.discounted_return(gamma, model.value(gamma)), expected + ends)


def test_a_likely_end_discounts_what_follows():
    trajectory = Trajectory(
        torch.zeros(1, 4, 2), torch.zeros(1, 3, 1), torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 0.25, 0.5]])
    )
    value = trajectory.discounted_return(0.5, lambda feat: torch.tensor([64.0]))
    torch.testing.assert_close(value, torch.tensor([1 + 0.5 * 0.5 * 2 + 0.25 * 0.125 * 4 + 0.125 * 0.0625 * 64]))


@searching
@both_spaces
def test_the_goal_is_reached_by_the_shortest_way(name, discrete):
    model = Chain(goal=6, discrete=discrete)
    planner, generator = build(name, model, gamma=0.95), seeded()
    state, memory = model.at(2, 1, 4, 0, 3), planner.initial(5)
    arrived = torch.full((5,), -1)
    for t in range(6):
        action, memory = planner.act(model, state, memory, none(5), False, generator)
        feat, _, _ = model.step(state.feat, action)
        state = State(feat, {"x": feat})
        arrived = torch.where((arrived < 0) & (feat[:, 0] == 6), t + 1, arrived)
    assert arrived.tolist() == [4, 5, 2, 6, 3]


@searching
@both_spaces
def test_a_terminal_value_sees_beyond_the_plan(name, discrete):
    model = Chain(goal=40, crumb=0.0, discrete=discrete)
    start = model.at(3, 30, 10)
    planner = build(name, model, plan_horizon=5, gamma=0.9, terminal_value=model.value(0.9))
    _, memory = planner.act(model, start, planner.initial(3), none(3), False, seeded())
    feat = start.feat
    for t in range(4):
        feat, _, _ = model.step(feat, memory["plan"][:, t])
    assert (feat - start.feat).flatten().tolist() == [4.0, 4.0, 4.0]


@planning
@pytest.mark.parametrize("noise_beta", [0.0, 1.0])
def test_the_true_model_gives_the_optimum(name, noise_beta):
    model = LinearGaussian()
    state = model.start(5, scale=0.4)
    thorough = {"num_samples": 1024, "num_elites": 64, "min_std": 0.02, "sample_decay": 1.0, "momentum": 0.0}
    thorough["iterations"] = 200 if name == "gradient" else 40
    planner = build(name, model, noise_beta=noise_beta, **thorough)
    best = model.best_plan(state.feat, 12, 0.99)
    assert best.abs().max() < 1
    action, memory = planner.act(model, state, planner.initial(5), none(5), False, seeded())
    with torch.no_grad():
        top, reached = (model.imagine(state, plan, 12).discounted_return(0.99) for plan in (best, memory["actions"]))
    assert ((top - reached) / top.abs()).min() > -1e-5
    assert (top - reached).mean() / top.mean().abs() < 0.02
    assert (action - best[:, 0]).abs().mean() < 0.15


@searching
@both_spaces
def test_plans_stay_float32_under_autocast(name, discrete):
    model, state = world(discrete)
    state = state.map(lambda x: x.bfloat16())
    planner = build(name, model, noise_beta=1.0)
    step, seen = model.step, set()

    def half(feat, action):
        with torch.autocast("cpu", enabled=False):
            feat, reward, cont = (x.bfloat16() for x in step(feat.float(), action))
        return feat, reward, cont

    model.step = half
    planner.terminal_value = lambda feat: (seen.add(feat.dtype), feat[:, 0])[1]
    plain, _ = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        action, memory = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    assert seen == {torch.bfloat16}
    assert action.dtype == memory["mean"].dtype == memory["plan"].dtype == torch.float32
    assert torch.equal(action, plain)
