"""Behaviour cloning: what it learns, and which goals it learns it under."""

from __future__ import annotations

import pytest
import torch
from model_cases import ACTION, STATE, WITH_GOAL, batch, config, with_reset
from true_models import TrueModel

from dynamics.base import Rollout
from planners.cloning import Cloning
from worldmodels.errors import OptionError, UserError
from worldmodels.factory import build_model

POLICY = {"units": 16, "layers": 2}


def rollout_of(feat):
    return Rollout(feat, feat, torch.ones(feat.shape[:2]), {}, {})


def test_it_learns_the_action_that_followed():
    torch.manual_seed(0)
    planner = Cloning(3, ACTION, False, POLICY)
    optimizer = torch.optim.Adam(planner.parameters(), 1e-2)
    for _ in range(200):
        feat = torch.randn(16, 5, 3)
        rows = {"action": torch.zeros(16, 5, ACTION), "is_first": torch.zeros(16, 5, dtype=torch.bool)}
        rows["action"][:, 1:] = feat[:, :-1, :2].tanh()  # led into the row after
        optimizer.zero_grad()
        planner.loss(TrueModel(), rollout_of(feat), rows)["clone"].mean().backward()
        optimizer.step()
    feat = torch.randn(100, 3)
    error = planner.policy(feat).mode() - feat[:, :2].tanh()
    assert error.square().mean() < 0.01


def test_nothing_is_learned_across_a_reset():
    planner = Cloning(3, ACTION, False, POLICY)
    rows = with_reset(batch(observations=STATE))
    loss = planner.loss(TrueModel(), rollout_of(torch.randn(2, 5, 3)), rows)["clone"]
    assert loss.shape == (2, 4)
    assert torch.equal(loss == 0, rows["is_first"][:, 1:])


@pytest.mark.parametrize("hindsight", [0.0, 1.0])
def test_goals_are_states_that_came_later(hindsight):
    model = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    size = model.dynamics.goal_dim
    planner = Cloning(2 * size, ACTION, False, POLICY, goal_dim=size, hindsight=hindsight)
    rows = with_reset(batch(size=3, length=6, observations=WITH_GOAL))
    rows |= {"goal_pixels": rows["pixels"].flip(1), "goal_state": rows["state"] + 50}
    rollout, _, _ = model.observe(rows, model.initial(3))
    feat = planner._relabeled(model, rollout.post[:, :-1].detach(), rows)
    assert torch.equal(feat[..., :size], rollout.post[:, :-1, :size])
    goal = feat[..., size:]
    if hindsight == 0:
        assert torch.equal(goal, rollout.post[:, :-1, size:])
        return
    for b in range(3):
        for t in range(5):
            later = [
                model.encode_goal({k: rows[k][b : b + 1, s] for k in ("pixels", "state")})[0] for s in range(t + 1, 6)
            ]
            assert any(torch.allclose(goal[b, t], latent, atol=1e-5) for latent in later)


def test_goals_may_lie_behind_the_window():
    model = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    size = model.dynamics.goal_dim
    planner = Cloning(2 * size, ACTION, False, POLICY, goal_dim=size, hindsight=1.0)
    assert planner.reads_later
    assert not Cloning(2 * size, ACTION, False, POLICY, goal_dim=size, hindsight=0.0).reads_later
    rows = with_reset(batch(size=3, length=6, observations=WITH_GOAL))
    rows["is_first"][:, 1:] = False
    rows |= {"goal_pixels": rows["pixels"].flip(1), "goal_state": rows["state"] + 50}
    rollout, _, _ = model.observe(rows, model.initial(3))
    behind = {"later_pixels": rows["pixels"][:, :1], "later_state": rows["state"][:, :1] + 7}
    rows |= behind | {"later_rows": torch.full((3, 1), 10**6)}  # so many that all goals are behind
    goal = planner._relabeled(model, rollout.post[:, :-1].detach(), rows)[..., size:]
    seen = model.encode_goal({key.removeprefix("later_"): value[:, 0] for key, value in behind.items()})
    torch.testing.assert_close(goal, seen[:, None].expand_as(goal))


def test_mistakes_are_refused():
    with pytest.raises(OptionError) as refused:
        Cloning(3, ACTION, False, POLICY, hindsight=1.5)
    assert (refused.value.option, refused.value.value) == ("hindsight", 1.5)
    model = build_model(config("dynamics=implicit"), STATE, ACTION)
    with pytest.raises(UserError) as refused:
        Cloning(3, ACTION, False, POLICY).check(model.dynamics, 1)
    assert (refused.value.option, refused.value.value) == ("data.length", 1)
