from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from planner_cases import PLANNERS, both_spaces, build, flags, none, searching, seeded, world
from planner_cases import replanning as each_replanner
from true_models import Chain, LinearGaussian

from dynamics.base import State
from planners.base import Decision
from planners.mppi import MPPI
from planners.search import receding_horizon
from planners.search.proposals import Proposal
from planners.search.shooting import SearchResult


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    """All rows in one search, for those who look at what the model is asked."""
    monkeypatch.setattr(receding_horizon, "ROWS_AT_ONCE", 10**6)


@searching
@both_spaces
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_searched_in_groups_plan_as_all_together(name, discrete, rows, monkeypatch):
    model, state = world(discrete)
    planner = build(name, model)
    together, expected = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    monkeypatch.setattr(receding_horizon, "ROWS_AT_ONCE", 256 * rows)
    model.asked.clear()
    in_groups, memory = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    assert max(len(actions) for actions in model.asked) <= 256 * rows + 100  # and what CEM keeps
    torch.testing.assert_close(in_groups, together)
    for key in expected:
        torch.testing.assert_close(memory[key], expected[key])


@each_replanner
@both_spaces
@pytest.mark.parametrize("replan_every", [1, 2])
def test_warm_start_moves_up_by_the_steps_executed(name, discrete, replan_every):
    model, state = world(discrete)
    planner = build(
        name,
        model,
        replan_every=replan_every,
        num_samples=2048,
        keep_elites=0.0,
        min_std=1e-3,
        max_std=1e-3,
        iterations=1,
        add_mean=False,
        noise_beta=0.0,
        spread=0.0,
    )
    if PLANNERS[name] == "guided":
        planner.search.guide = replace(planner.search.guide, policy_samples=0)
    _, memory = planner.act(model, state, planner.initial(5), none(5), False, seeded())
    length = planner.imagination_size.steps
    ramp = torch.linspace(-0.9, 0.9, length)[None, :, None].expand(5, -1, model.action_dim)
    if discrete:
        ramp = torch.nn.functional.one_hot(torch.arange(length) % 3, 3).float().expand(5, -1, -1)
    memory["mean"] = ramp.clone()
    model.asked.clear()
    for step in range(1, replan_every + 1):
        reset = flags(0, step == replan_every, 0, 0, 0)
        _, memory = planner.act(model, state, memory, reset, False, seeded())
    tried = model.asked[0].reshape(5, -1, length, model.action_dim).mean(dim=1)
    blank = torch.full_like(ramp[0, :replan_every], 1 / 3 if discrete else 0.0)
    expected = torch.cat([ramp[0, replan_every:], blank])
    if discrete and PLANNERS[name] != "ascends":
        expected = 0.5 * expected + 0.5 / 3
    torch.testing.assert_close(tried[0], expected, atol=0.06 if discrete else 1e-3, rtol=0)
    clear = torch.full_like(expected, 1 / 3 if discrete else 0.0)
    torch.testing.assert_close(tried[1], clear, atol=0.06 if discrete else 1e-3, rtol=0)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_cem_tries_its_best_again_moved_up_but_not_after_a_reset(fraction):
    model, state = world(False)
    planner = build("cem", model, keep_elites=fraction, num_elites=4, num_samples=32)
    kept = int(4 * fraction)
    _, memory = planner.act(model, state, planner.initial(5), none(5), False, seeded())
    last = model.asked[-1].reshape(5, -1, 12, 2)
    values = model_imagine(model, state, last).discounted_return(0.99).reshape(5, -1)
    best = values.topk(kept, dim=1).indices
    model.asked.clear()
    planner.act(model, state, memory, flags(0, 1, 0, 0, 0), False, seeded())
    first = model.asked[0].reshape(5, 32, 12, 2)
    for n in (0, 2, 3, 4):
        torch.testing.assert_close(first[n, :kept, :-1], last[n, best[n], 1:])
    assert not torch.allclose(first[1, :kept, :-1], last[1, best[1], 1:], atol=0.05)


def model_imagine(model, state, candidates):
    with torch.no_grad():
        forked = state.map(lambda x: x.repeat_interleave(candidates.shape[1], dim=0))
        return model.imagine(forked, candidates.flatten(0, 1), candidates.shape[2])


@searching
def test_search__keeps_a_floor_under_the_noise(name):
    """Long searches leave some deviation or probability to every action, and equal values give finite plans."""
    model = LinearGaussian()
    planner = build(name, model, iterations=25, keep_elites=0.0, add_mean=False, min_std=0.1)
    _, memory = planner.act(model, model.start(4), planner.initial(4), none(4), True, seeded())
    last = model.asked[-1].reshape(4, -1, 12, 2)
    assert last.std(dim=1).min() > 0.07
    chain = Chain()
    planner = build(name, chain, iterations=25, keep_elites=0.0, add_mean=False, min_prob=0.05)
    planner.act(chain, chain.at(0, 2, 3, 5), planner.initial(4), none(4), True, seeded())
    last = chain.asked[-1].reshape(4, -1, 12, 3)
    assert last.mean(dim=(0, 1)).min() > 0.02

    class Flat(LinearGaussian):
        def step(self, feat, action):
            return feat, torch.zeros(len(feat)), torch.ones(len(feat))

    flat = Flat()
    action, memory = build(name, flat).act(flat, flat.start(4), build(name, flat).initial(4), none(4), True, seeded())
    assert action.isfinite().all()
    assert memory["mean"].abs().mean() < 0.3


@searching
@pytest.mark.parametrize("explore", [False, True])
def test_nothing_outside_the_box_is_tried_or_done(name, explore):
    model = LinearGaussian(cost=0.0)
    planner = build(name, model, max_std=2.0)
    memory = planner.initial(5)
    for _ in range(3):
        action, memory = planner.act(model, model.start(5, scale=50.0), memory, none(5), explore, seeded())
        assert action.abs().max() <= 1
        assert memory["plan"].abs().max() <= 1
    assert max(tried.abs().max() for tried in model.asked) == 1


@each_replanner
@both_spaces
def test_the_rest_of_a_plan_is_executed_and_flushed_on_reset(name, discrete):
    model, state = world(discrete)
    planner, generator = build(name, model, replan_every=3), seeded()
    first, memory = planner.act(model, state, planner.initial(5), none(5), False, generator)
    assert torch.equal(first, memory["actions"][:, 0])
    rest = memory["actions"].clone()
    model.asked.clear()
    second, memory = planner.act(model, state, memory, none(5), False, generator)
    assert model.asked == []
    assert torch.equal(second, rest[:, 1])
    same = seeded()
    same.set_state(generator.get_state())
    third, memory = planner.act(model, state, memory, flags(0, 1, 0, 0, 0), False, generator)
    assert len(model.asked[0]) == planner.imagination_size.rows
    fresh, _ = planner.act(model, state, planner.initial(5), none(5), False, same)
    torch.testing.assert_close(third[1], fresh[1])
    others = flags(1, 0, 1, 1, 1)
    assert torch.equal(third[others], rest[others, 2])
    model.asked.clear()
    _, memory = planner.act(model, state, memory, none(5), False, generator)
    assert len(model.asked[0]) == planner.imagination_size.rows * 4
    assert memory["age"].tolist() == [1, 2, 1, 1, 1]


@each_replanner
@both_spaces
def test_the_plan_that_is_looked_at_is_the_one_that_is_followed(name, discrete):
    model, state = world(discrete)
    planner = build(name, model, replan_every=3)
    considered = planner.inspect(model, state, planner.initial(5), seeded())
    assert considered.plan.shape == (5, planner.imagination_size.steps, model.action_dim)
    memory = planner.initial(5)
    for reset in (none(5), none(5)):
        _, memory = planner.act(model, state, memory, reset, True, seeded())
    again = planner.inspect(model, state, memory, seeded(7))
    assert torch.equal(again.plan, memory["plan"])
    if again.candidates is not None:
        assert again.candidates.shape[:1] + again.candidates.shape[2:] == again.plan.shape
        assert again.values.shape == again.candidates.shape[:2]
    cold = build(name, model, replan_every=3, warm_start=False)  # looks at a search without the plan before, too
    model.asked.clear()
    cold.inspect(model, state, memory, seeded(7))
    blank = model.asked[0]
    model.asked.clear()
    cold.inspect(model, state, cold.initial(5), seeded(7))
    assert torch.equal(model.asked[0], blank)


@searching
@both_spaces
def test_one_call_of_the_model_an_iteration_and_one_fork_a_plan(name, discrete):
    model, state = world(discrete)
    planner = build(name, model, sample_decay=1.0)
    planner.act(model, state, planner.initial(5), none(5), False, seeded())
    assert [len(tried) for tried in model.asked] == [5 * planner.settings.num_samples] * planner.settings.iterations
    assert model.forks == [planner.settings.num_samples]


def test_cem__tries_fewer_then_its_best_and_its_mean_last():
    """Each iteration draws fewer and tries the best of the one before again; the last one tries the mean too."""
    model, state = world(False)
    config = {"num_samples": 64, "num_elites": 10, "keep_elites": 0.3, "sample_decay": 2.0, "iterations": 4}
    planner = build("cem", model, add_mean=True, momentum=0.0, **config)
    planner.act(model, state, planner.initial(5), none(5), False, seeded())
    tried = [x.reshape(5, -1, 12, 2) for x in model.asked]
    assert [x.shape[1] for x in tried] == [64, 32, 20, 20]
    assert tried[0][:, :, :-1].abs().sum(dim=(2, 3)).min() > 0

    def best(candidates, count):
        values = model_imagine(model, state, candidates).discounted_return(0.99).reshape(5, -1)
        return torch.stack([candidates[n, values[n].topk(count).indices] for n in range(5)])

    for earlier, later in pairwise(tried):
        torch.testing.assert_close(later[:, :3], best(earlier, 3))
    torch.testing.assert_close(tried[3][:, -1], best(tried[2], 10).mean(dim=1))


def test_mppi_explores_around_one_elite_drawn_by_weight():
    model, state = world(False)
    planner = build("mppi", model, iterations=1)
    planner.family.fit = lambda elites, weights: Proposal(elites.mean(dim=1), torch.zeros_like(elites[:, 0]))
    _, memory = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    tried = model.asked[-1].reshape(5, -1, 12, 2)
    distance = (tried - memory["actions"][:, None]).abs().sum(dim=(2, 3)).min(dim=1).values
    assert distance.max() < 1e-4
    assert (memory["actions"] - memory["mean"]).abs().mean() > 0.1


@searching
def test_executing_the_mean_is_not_exploring(name):
    model, state = world(False)
    planner = build(name, model, min_std=0.3)
    calm, memory = planner.act(model, state, planner.initial(5), none(5), False, seeded())
    wild, other = planner.act(model, state, planner.initial(5), none(5), True, seeded())
    assert torch.equal(memory["mean"], other["mean"])
    assert (calm - wild).abs().mean() > 0.05
    if name == "mppi":
        assert torch.equal(calm, memory["plan"][:, 0])


def test_wide_actions_are_searched_longer():
    """Two further iterations from 20 numbers on (TD-MPC2)."""
    options = {"plan_horizon": 3, "num_samples": 8, "num_elites": 2, "iterations": 6, "wide_iterations": 2}
    assert [MPPI(size, False, **options).iterations for size in (1, 19, 20, 38)] == [6, 6, 8, 8]


@pytest.mark.parametrize("execute", ["mean", "elite"])
def test_what_mppi_executes_without_exploring(execute):
    """The mean, or one of the elites, each as often as it weighs (TD-MPC2). Neither has noise."""
    options = {"plan_horizon": 2, "num_samples": 8, "num_elites": 3, "iterations": 1}
    planner = MPPI(1, False, execute=execute, **options)
    elites = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 2, 1).expand(4000, 3, 2, 1)
    weights = torch.tensor([0.5, 0.3, 0.2]).expand(4000, 3)
    found = SearchResult(elites, weights, planner.family.fit(elites, weights), elites, weights)
    state = State(torch.zeros(4000, 1), {})
    actions = planner.choose(found, Decision.begin(None, state, False, seeded()))
    if execute == "mean":
        assert torch.equal(actions, found.proposal.mean)
        return
    drawn, counts = actions[:, 0, 0].unique(return_counts=True)
    torch.testing.assert_close(drawn, elites[0, :, 0, 0])
    torch.testing.assert_close(counts / 4000, weights[0], atol=0.03, rtol=0)
