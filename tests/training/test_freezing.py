"""Freezing is per part: what is frozen has no loss and no scale, what is new on a frozen model learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from extra_heads import Effort
from model_cases import ACTION, STATE, batch, config, model, with_reset
from toy_runs import REST

from worldmodels.errors import UserError
from worldmodels.model import WorldModel
from worldmodels.runs.loading import load_run
from worldmodels.training.run import planner_config, train
from worldmodels.training.setup import Spaces, build_module

EFFORT = "+heads.effort={_target_: extra_heads.Effort, bias: 0.5, loss_scales: {effort: 1.0}}"


def test_each_frozen_part_loses_its_losses_and_their_scales():
    world = model(observations=STATE)
    spaces = Spaces(STATE, ACTION, False)
    every = {"dynamics": {"dyn", "rep"}, "objective.reconstruction": {"state"}}
    every |= {"heads.reward": {"reward"}, "heads.cont": {"cont"}}
    assert world.parts.keys() == every.keys()
    for place, part in world.parts.items():
        part.requires_grad_(False)
        every.pop(place)
        trained = build_module(config("planner=actor_critic"), Path(), world, spaces)
        left = set().union({"actor", "critic", "replay_critic"}, *every.values())
        assert trained.losses(batch(observations=STATE))[0].keys() == trained.balance.scales.keys() == left


def test_a_frozen_planner_has_no_losses():
    world = model(observations=STATE)
    trained = build_module(config("planner=actor_critic"), Path(), world, Spaces(STATE, ACTION, False))
    trained.planner.requires_grad_(False)
    assert trained.losses(batch(observations=STATE))[0].keys() == {"dyn", "rep", "state", "reward", "cont"}


def test_a_part_without_parameters_learns_with_the_latent():
    """It counts as learning until encoder and dynamics are both frozen."""
    world = model(observations=STATE)
    assert world.learns(torch.nn.Identity())
    world.encoder.requires_grad_(False)
    assert world.learns(torch.nn.Identity())
    world.dynamics.requires_grad_(False)
    assert not world.learns(torch.nn.Identity())


def test_a_detached_head_learns_on_a_frozen_model():
    world = model(observations=STATE)
    effort = Effort(world.dynamics.feat_dim, ACTION)
    frozen = WorldModel(world.encoder, world.dynamics, dict(world.heads), dict(world.objectives)).requires_grad_(False)
    frozen.heads["effort"] = effort
    losses, _ = frozen.losses(with_reset(batch(observations=STATE)), frozen.initial(2))
    assert losses.keys() == {"effort"}
    losses["effort"].mean().backward()
    assert effort.net.weight.grad.any()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    patch = pytest.MonkeyPatch()
    patch.setattr("worldmodels.training.run.score_finished", lambda *_: None)
    yield train(["env=counter", "env.num_envs=2", "env.obs=state", *REST, f"run_dir={folder}"])
    patch.undo()


@pytest.mark.process
def test_a_head_is_added_to_a_trained_run_and_resumed(run, tmp_path):
    folder = train([f"world_model={run}", EFFORT, f"run_dir={tmp_path / 'run'}"])
    before, after = load_run(run).model, load_run(folder).model
    known = dict(after.named_parameters())
    assert all(torch.equal(p, known[name]) for name, p in before.named_parameters())
    weight = after.heads["effort"].net.weight
    assert after.heads["effort"].net.bias.item() != 0.5
    train([f"resume={folder}", "frames=160"])
    resumed = load_run(folder).model
    assert not torch.equal(resumed.heads["effort"].net.weight, weight)
    known = dict(resumed.named_parameters())
    assert all(torch.equal(p, known[name]) for name, p in before.named_parameters())


@pytest.mark.process
def test_a_frozen_part_cannot_be_another(run):
    with pytest.raises(UserError, match=r"^heads\.reward\.units=3 cannot change: the world model in"):
        planner_config(run, ["heads.reward.units=3", "planner=actor_critic"])
    with pytest.raises(UserError, match=r"has nothing to learn on a frozen world model"):
        planner_config(run, ["planner=cem"])
