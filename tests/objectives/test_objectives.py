"""The seam of objectives: what they are given, what they may change, and when they are called."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from model_cases import ACTION, STATE, batch, config, model, with_reset
from torch import nn

from dynamics.base import Rollout
from planners.random import Random
from worldmodels.errors import UserError
from worldmodels.factory import build_model, loss_scales
from worldmodels.model import WorldModel
from worldmodels.objectives.base import Context, Objective
from worldmodels.training.losses import FixedScales
from worldmodels.training.module import WorldModelModule
from worldmodels.training.optim import NormClip


class Spy(Objective):
    """Learns one number, and keeps what it was given."""

    def __init__(self, name="spy"):
        super().__init__()
        self.w, self.name = nn.Parameter(torch.ones(())), name
        self.given, self.followed = [], []

    def forward(self, rollout, embed, batch, context):
        self.given.append((rollout, embed, batch, context, int(context.updates)))
        return {self.name: self.w * rollout.feat.mean(-1)}

    def after_step(self, model):
        self.followed.append(model)


class Blindfold(Spy):
    """Shows the encoder nothing."""

    def view(self, batch, generator=None):
        return {**batch, "state": torch.zeros_like(batch["state"])}


def with_objectives(**more):
    world = model(observations=STATE)
    return WorldModel(world.encoder, world.dynamics, dict(world.heads), {**world.objectives, **more})


def module(world, **parts):
    scales = loss_scales(config(), STATE) | {"spy": 1.0}
    trained = WorldModelModule(
        world,
        Random(ACTION, False),
        partial(torch.optim.SGD, lr=1.0),
        NormClip(100.0),
        FixedScales(scales),
        parts,
        0,
        0.0,
        Path(),
    )
    trained.log, trained.log_dict = (lambda *_, **__: None), (lambda *_, **__: None)
    return trained


def rows():
    return with_reset(batch(observations=STATE))


def test_an_objective_is_told_of_model_planner_and_updates():
    trained = module(with_objectives(spy=Spy()))
    spy = trained.model.objectives["spy"]
    for _ in range(2):
        trained.training_step(rows(), 0)
        trained.after_step()
    contexts = [(context, updates) for *_, context, updates in spy.given]
    assert [updates for _, updates in contexts] == [0, 1]
    assert all(context.model is trained.model and context.planner is trained.planner for context, _ in contexts)
    assert contexts[0][0].updates.dtype == torch.int64
    assert contexts[0][0].updates.ndim == 0
    assert spy.followed == [trained.model] * 2


def test_an_objective_is_a_part_of_its_own_for_the_optimizer():
    trained = module(with_objectives(spy=Spy()), **{"model.objectives.spy": {"lr": 0.5}})
    groups = {group["lr"]: group["params"] for group in trained.configure_optimizers().param_groups}
    assert [id(p) for p in groups[0.5]] == [id(trained.model.objectives["spy"].w)]


@pytest.mark.parametrize("training", [True, False])
def test_the_view_is_for_the_encoder_and_for_training_alone(training):
    world = with_objectives(spy=Blindfold()).train(training)
    spy, shown = world.objectives["spy"], rows()
    losses, _ = world.losses(shown, world.initial(2))
    _, embed, read, *_ = spy.given[0]
    assert torch.equal(embed, world.encoder(spy.view(shown) if training else shown))
    assert not torch.equal(world.encoder(spy.view(shown)), world.encoder(shown))
    assert torch.equal(read["state"], shown["state"])
    assert losses["state"].isfinite().all()


def test_only_one_objective_changes_the_view():
    with pytest.raises(UserError, match=r"^the objectives first, second each change what the encoder is shown"):
        with_objectives(first=Blindfold("a"), second=Blindfold("b"))


@pytest.mark.parametrize("name", ["dyn", "state", "reward"])
def test_a_loss_that_another_part_names_alike_is_refused(name):
    world = with_objectives(spy=Spy(name))
    with pytest.raises(UserError, match=rf"has a loss '{name}', as another part has"):
        world.losses(rows(), world.initial(2))


@pytest.mark.parametrize("shapes", [True, False])
def test_only_an_objective_that_says_so_shapes_the_latent(shapes):
    spy = Spy()
    spy.trains_latent = shapes
    world = with_objectives(spy=spy)
    world.losses(rows(), world.initial(2))[0]["spy"].mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in world.encoder.parameters()) == shapes
    assert spy.w.grad.any()


class Flat(nn.Module):
    """A decoder that shows one number for every number of the state."""

    def __init__(self, feat_dim, observations):
        super().__init__()
        self.net = nn.Linear(feat_dim, observations["state"][0][0])

    def forward(self, feat):
        return {"state": self.net(feat)}

    def loss(self, feat, obs):
        return {"state": (self.net(feat) - obs["state"]).square().sum(-1)}


@pytest.mark.parametrize("objective", ["reconstruction", "probe"])
def test_a_decoder_is_given_to_whoever_needs_one(objective):
    cfg = config(f"objective={objective}")
    cfg.objective[objective].decoder = {"_target_": "test_objectives.Flat", "_partial_": True}
    world = build_model(cfg, STATE, ACTION)
    assert type(world.objectives[objective].decoder).__name__ == "Flat"
    feat = torch.randn(2, 5, world.dynamics.feat_dim)
    assert torch.equal(world.decode(feat)["state"], world.objectives[objective].decoder.net(feat))


def test_a_decoder_has_options_of_its_own():
    deep = config("decoder.layers=3", "decoder.units=24", "objective=probe")
    found = build_model(deep, STATE, ACTION).objectives["probe"].decoder["state"].net
    assert [layer[0].out_features for layer in list(found)[:-1]] == [24] * 3


def test_some_rows_are_decoded_each_as_often_as_any():
    rebuilt = model(observations=STATE).objectives["reconstruction"]
    feat, states = torch.randn(2, 7, rebuilt.decoder.feat_dim), {"state": torch.randn(2, 7, *STATE["state"][0])}
    rollout = Rollout(feat, feat, torch.ones(2, 7), {}, {})
    whole = rebuilt.decoder.loss(feat, states)["state"]
    rebuilt.every, seen = 3, torch.zeros(7)
    for seed in range(700):
        torch.manual_seed(seed)
        few = rebuilt(rollout, torch.empty(2, 7, 1), states, Context(rebuilt))["state"]
        assert few.shape == (2, 3)
        rows = [int((whole[0] - loss).abs().argmin()) for loss in few[0]]
        torch.testing.assert_close(few, whole[:, rows])
        seen[rows] += 1
    assert seen.sum() == 2100
    assert 250 < seen.min() <= seen.max() < 350
