"""Diffusion planners that learned from random actions do better than these, in a world that is known exactly."""

from __future__ import annotations

import pytest
import torch
from planner_cases import build, none, seeded
from true_models import LinearGaussian

from dynamics.base import Rollout, State

STEPS = 16


def recorded(world, rows=256):
    """Episodes of random actions: what a world model would make of them, what replay holds, and their returns."""
    feat, generator = world.start(rows).feat, seeded(1)
    zeros = torch.zeros(rows, world.action_dim)
    feats, actions, rewards = [feat], [zeros], [zeros[:, 0]]
    for _ in range(STEPS):
        action = 2 * torch.rand(rows, world.action_dim, generator=generator) - 1
        feat, reward, _ = world.step(feat, action)
        feats.append(feat)
        actions.append(action)
        rewards.append(reward)
    post, action, reward = (torch.stack(x, 1) for x in (feats, actions, rewards))
    first = (torch.arange(STEPS + 1) == 0).expand(rows, -1)
    none_of_them = torch.zeros_like(first)
    batch = {
        "action": action,
        "reward": reward,
        "is_first": first,
        "is_last": first.flip(1),
        "is_terminal": none_of_them,
    }
    return Rollout(post, post, torch.ones_like(reward), {}, {}), batch, reward.sum(1)


def learned(planner, world, rollout, batch, updates):
    """The planner, trained on some rows at a time."""
    optimizer, generator = torch.optim.Adam(planner.parameters(), 3e-3), seeded(2)
    planner.train()
    for _ in range(updates):
        rows = torch.randint(len(rollout.post), (64,), generator=generator)
        part = Rollout(rollout.post[rows], rollout.post[rows], rollout.weight[rows], {}, {})
        losses = planner.loss(world, part, {key: value[rows] for key, value in batch.items()})
        optimizer.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()
        optimizer.step()
        planner.after_step()
    return planner.eval()


def earned(planner, world, rows=64):
    """Returns of as many steps by the planner's own actions."""
    state, memory, total, generator = world.start(rows), planner.initial(rows), 0.0, seeded(3)
    for _ in range(STEPS):
        action, memory = planner.act(world, state, memory, none(rows), False, generator)
        feat, reward, _ = world.step(state.feat, action)
        state, total = State(feat, {"x": feat}), total + reward
    return total


@pytest.mark.learns
@pytest.mark.parametrize("name", ["diffusion", "decision_diffuser", "cfgrl"])
def test_what_is_learned_from_random_actions_beats_them(name):
    """It earns over three tenths of the way from standing still, which beats random actions, to the best plan."""
    world, candidates = LinearGaussian(), 8 if name == "diffusion" else 1
    torch.manual_seed(0)
    rollout, batch, before = recorded(world)
    horizon = 1 if name == "cfgrl" else 8
    planner = build(name, world, plan_horizon=horizon, steps=5, candidates=candidates, replan_every=1)
    after = earned(learned(planner, world, rollout, batch, 400), world).mean()
    start, nothing = world.start(64), torch.zeros(64, STEPS, world.action_dim)
    with torch.no_grad():
        best, still = (
            world.imagine(start, plan, STEPS).reward.sum(1).mean()
            for plan in (world.best_plan(start.feat, STEPS, 1.0).clamp(-1, 1), nothing)
        )
    assert before.mean() < still < best
    assert (best - after) / (best - still) < 0.7, (before.mean(), still, after, best)
