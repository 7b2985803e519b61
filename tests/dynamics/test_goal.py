"""Goals beside states: a backbone wrapped with a goal does what it did, and carries the goal along untouched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dynamics_cases import Subject
from model_cases import ACTION, WITH_GOAL, config, rollout_of
from refusals import refuses

from dynamics.goal import GOAL_LATENT, GoalConditioned, next_features
from worldmodels.errors import UserError
from worldmodels.factory import build_model, build_planner
from worldmodels.heads.arrival import RewardHead
from worldmodels.heads.transition import TransitionRewardHead
from worldmodels.nets.distributions import TwoHot
from worldmodels.testing.sequences import EMBED, randomize, sequences
from worldmodels.training.setup import Spaces, build_module

BACKBONES = ["rssm", "transformer", "ssm", "mamba", "implicit"]


@pytest.fixture(params=BACKBONES)
def pair(request):
    backbone = randomize(Subject(request.param).build())
    backbone.sample = False
    return backbone, GoalConditioned(backbone)


def with_goals(data, seed=1):
    goal = torch.randn(data.embed.shape, generator=torch.Generator().manual_seed(seed))
    return torch.stack([data.embed, goal], dim=2), goal


def test_the_present_half_is_what_the_backbone_makes_of_it(pair):
    backbone, wrapped = pair
    data = sequences(9)
    embed, _ = with_goals(data)
    rollout, last = wrapped.observe(embed, data.action, data.reset, wrapped.initial(3))
    bare, bare_last = backbone.observe(data.embed, data.action, data.reset, backbone.initial(3))
    size = backbone.feat_dim
    assert wrapped.feat_dim == 2 * size == size + wrapped.goal_dim
    assert torch.equal(rollout.feat[..., :size], bare.feat)
    assert torch.equal(rollout.post[..., :size], bare.post)
    assert torch.equal(last.feat[:, :size], bare_last.feat)
    losses, bare_losses = wrapped.loss(rollout, data.reset), backbone.loss(bare, data.reset)
    assert losses.keys() == bare_losses.keys()
    assert all(torch.equal(losses[key], bare_losses[key]) for key in losses)


def changing_goals():
    """Three rows of six: another goal in mid-episode, one with a new episode, the same all the time."""
    data = sequences(6)
    data.reset[:] = False
    data.reset[:, 0] = data.reset[1, 4] = True
    goal = torch.zeros(3, 6, 4)
    goal[0, 3:] = goal[1, 4:] = 1.0
    flags = torch.zeros(3, 6, dtype=torch.bool)
    batch = {"is_first": data.reset.clone(), "is_last": flags, "is_terminal": flags, "goal_state": goal}
    return batch | {"action": data.action, "reward": 1 + torch.rand(3, 6), "reset": data.reset}


@pytest.mark.parametrize("kind", [RewardHead, TransitionRewardHead])
def test_reward_heads__learn_only_under_the_rewarded_goal(kind):
    """A head on states skips the row that shows the next goal; one on transitions skips the rows after resets."""
    batch, feat = changing_goals(), torch.randn(3, 6, 5)
    head = kind(5, ACTION, 8)
    loss = head.loss(rollout_of(feat), batch)
    taught = torch.ones(3, 6, dtype=torch.bool)
    if kind is RewardHead:
        taught[0, 3] = False  # the state shows the new goal
    else:
        taught &= ~batch["reset"]  # where nothing led; the state before row 3 still shows the former goal
    assert torch.equal(loss != 0, taught)


def test_where_a_row_led_is_seen_under_its_own_goal():
    feat = torch.randn(3, 6, 5)
    led = next_features(feat, 2)
    assert torch.equal(led[..., :3], feat[:, 1:, :3])
    assert torch.equal(led[..., 3:], feat[:, :-1, 3:])
    assert torch.equal(next_features(feat, 0), feat[:, 1:])


@pytest.mark.parametrize("name", ["actor_critic", "tdmpc", "diffuser"])
def test_values__never_bootstrap_from_the_next_goal(name, monkeypatch):
    """Rewards of 1 for the goal that was; whoever bootstrapped from the next goal's value, 100, would show it."""
    world = build_model(config("dynamics=implicit"), {key: WITH_GOAL[key] for key in ("state", "goal_state")}, ACTION)
    size = world.dynamics.goal_dim
    words = [f"planner={name}", "denoiser.width=16"] + (["planner.plan_horizon=2"] if name == "diffuser" else [])
    planner = build_planner(config(*words).planner, ACTION, False, world.dynamics.feature_spec)
    batch = changing_goals() | {"state": torch.randn(3, 6, 4)}
    rollout, _, _ = world.observe(batch, world.initial(3))
    goal = batch["goal_state"][..., :1].expand(-1, -1, size)
    feat = torch.cat([torch.zeros(3, 6, world.dynamics.feat_dim - size), goal], -1)
    rollout = replace(rollout, feat=feat, post=feat)
    targets = []
    shown = lambda self, logits, *seen: targets.extend(seen) or [torch.zeros_like(x) for x in seen]  # noqa: E731
    monkeypatch.setattr(TwoHot, "losses", shown)
    monkeypatch.setattr(TwoHot, "decode", lambda self, logits: torch.zeros(()))
    worth = lambda feat, *_: 100 * feat[..., -1]  # noqa: E731
    if name == "tdmpc":
        target = planner.learner.target
        monkeypatch.setattr(target, "forward", lambda feat, *_: feat[..., -1:].movedim(-1, 0))
        monkeypatch.setattr(target.two_hot, "decode", lambda q: 100 * q)
        planner.learner._q_loss(rollout, batch)
    elif name == "actor_critic":
        monkeypatch.setattr(planner.critic, "forward", worth)
        planner._replay_loss(rollout, batch, worth(feat))
    else:
        monkeypatch.setattr(planner.learner.critic.slow, "forward", lambda feat: feat)
        monkeypatch.setattr(planner.learner.critic.two_hot, "decode", worth)
        planner.learner._critic_loss(rollout, batch)
    target = targets[0].reshape(-1, 3, 5)[0]
    assert (target[0, :3] < 20).all()  # the former goal's
    assert (target[0, 3:] > 50).all()


def test_a_state_can_be_aimed_at_any_latent(pair):
    backbone, wrapped = pair
    state, goal = wrapped.initial(3), torch.randn(3, backbone.feat_dim)
    aimed = wrapped.with_goal(state, goal)
    assert torch.equal(aimed.feat, torch.cat([state.feat[:, : backbone.feat_dim], goal], dim=1))
    after = wrapped.img_step(torch.zeros(3, ACTION), aimed)
    assert torch.equal(after.feat[:, backbone.feat_dim :], goal)
    with pytest.raises(UserError, match=r"a goal for these states is a latent of shape \(3, "):
        wrapped.with_goal(state, goal[:, :-1])


@pytest.mark.parametrize("name", ["rssm", "implicit"])
def test_a_goal_is_the_same_however_often_it_is_looked_at(name):
    wrapped = GoalConditioned(randomize(Subject(name).build()))
    assert wrapped.sample
    embed = torch.randn(4, EMBED)
    assert torch.equal(wrapped.encode_goal(embed), wrapped.encode_goal(embed))
    assert wrapped.sample


def test_as_goal__is_at_rest_and_repeats_the_newest_frame():
    """Numbers of a state that env.goal_zero_indices names are zero in a goal; names beyond the state are refused."""
    spec = {"pixels": ((9, 16, 16), torch.uint8), "state": ((4,), torch.float32)}
    both = spec | {f"goal_{key}": value for key, value in spec.items()}
    encoder = build_model(config("dynamics=implicit", "++env.goal_zero_indices=[1,3]"), both, ACTION).encoder
    obs = {"pixels": torch.randint(256, (2, 9, 16, 16), dtype=torch.uint8), "state": torch.randn(2, 4)}
    shown = encoder.as_goal(obs)
    assert torch.equal(shown["pixels"], obs["pixels"][:, 6:].repeat(1, 3, 1, 1))
    assert torch.equal(shown["state"], obs["state"] * torch.tensor([1.0, 0.0, 1.0, 0.0]))
    with refuses("env.goal_zero_indices", [4]):
        build_model(config("dynamics=implicit", "++env.goal_zero_indices=[4]"), both, ACTION)


def test_goals_are_embedded_once_for_as_long_as_they_are_shown(monkeypatch):
    encoder = randomize(build_model(config("dynamics=implicit"), WITH_GOAL, ACTION).encoder)
    generator = torch.Generator().manual_seed(0)
    obs = {
        "pixels": torch.randint(256, (2, 5, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "state": torch.randn(2, 5, 4, generator=generator),
    }
    obs["goal_pixels"], obs["goal_state"] = obs["pixels"][:, :1].repeat(1, 5, 1, 1, 1), torch.zeros(2, 5, 4)
    obs["goal_pixels"][0, 3:, 0, 0, 0] += 1  # another goal, in one pixel
    obs["goal_state"][1, 4:, 2] = 1.0  # likewise, in one number
    obs["goal_pixels"][1, :2], obs["goal_state"][1, :2] = obs["goal_pixels"][0, -1], obs["goal_state"][0, -1]
    embedded = []
    embed = type(encoder.encoder).forward
    monkeypatch.setattr(
        type(encoder.encoder), "forward", lambda self, o: embedded.append(len(o["state"])) or embed(self, o)
    )
    goal = {key: obs[f"goal_{key}"] for key in ("pixels", "state")}
    assert torch.allclose(encoder(obs), torch.stack([encoder.encoder(obs), encoder.encoder(goal)], dim=-2), atol=1e-6)
    assert embedded == [2, 4, 2, 2]  # rows of obs; goals: of row 0 two, row 1 goes on with the second, then two more


def test_what_is_decoded_does_not_depend_on_the_goal():
    world = randomize(build_model(config("dynamics=implicit"), WITH_GOAL, ACTION))
    feat = torch.randn(3, world.dynamics.feat_dim)
    other = feat.clone()
    other[:, world.dynamics.goal_dim :] += 1
    for key, value in world.decode(feat).items():
        assert torch.equal(value, world.decode(other)[key])


def test_configure_optimizers__keeps_own_rates_beside_a_goal(tmp_path):
    """With a goal wrapped around the backbone, the encoder and its encoding still have the lower rate."""
    cfg = config("experiment=tdmpc2_cpu", "env=maze", "env.obs=state")
    spec = {key: value for key, value in WITH_GOAL.items() if "state" in key}
    module = build_module(cfg, tmp_path, build_model(cfg, spec, ACTION), Spaces(spec, ACTION, False))
    rates = [group["lr"] for group in module.configure_optimizers().param_groups]
    assert sorted(set(rates)) == [9e-5, 3e-4]
    slow = sum(len(group["params"]) for group in module.configure_optimizers().param_groups if group["lr"] == 9e-5)
    assert slow == len([*module.model.encoder.parameters(), *module.model.dynamics.backbone.encode.parameters()])


def test_a_goal_is_its_frame_seen_as_an_episodes_first(pair):
    backbone, wrapped = pair
    data = sequences(5)
    embed, goal = with_goals(data)
    rollout, _ = wrapped.observe(embed, data.action, data.reset, wrapped.initial(3))
    first = torch.ones(3, dtype=torch.bool)
    for t in range(5):
        state = backbone.obs_step(goal[:, t], torch.zeros(3, ACTION), first, backbone.initial(3))
        torch.testing.assert_close(rollout.post[:, t, backbone.feat_dim :], state.feat)
        torch.testing.assert_close(wrapped.encode_goal(goal[:, t]), state.feat)


def test_filtering_equals_observing(pair):
    _, wrapped = pair
    data = sequences(7)
    embed, _ = with_goals(data)
    rollout, last = wrapped.observe(embed, data.action, data.reset, wrapped.initial(3))
    state = wrapped.initial(3)
    for t in range(7):
        state = wrapped.obs_step(embed[:, t], data.action[:, t], data.reset[:, t], state)
        torch.testing.assert_close(state.feat, rollout.post[:, t], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state.memory[GOAL_LATENT], last.memory[GOAL_LATENT])


def test_imagining_keeps_the_goal_in_every_kind_of_state(pair):
    """A step moves the latent but not the goal, from starts, forked states and selected states."""
    _, wrapped = pair
    data, size = sequences(6), pair[0].feat_dim
    embed, _ = with_goals(data)
    rollout, last = wrapped.observe(embed, data.action, data.reset, wrapped.initial(3))
    starts = wrapped.starts(rollout, 4)
    assert torch.equal(starts.feat, rollout.post[:, -4:].flatten(0, 1))
    forked = wrapped.fork(last, 2)
    chosen = wrapped.select(last, torch.tensor([2, 0]))
    for state, goal in (
        (starts, rollout.post[:, -4:, size:].flatten(0, 1)),
        (forked, last.feat[:, size:].repeat_interleave(2, dim=0)),
        (chosen, last.feat[[2, 0], size:]),
    ):
        action = torch.rand(len(state.feat), ACTION) * 2 - 1
        after = wrapped.img_step(action, state)
        assert torch.equal(after.feat[:, size:], goal)
        assert torch.equal(after.memory[GOAL_LATENT], goal)
        assert not torch.equal(after.feat[:, :size], state.feat[:, :size])


def test_no_gradient_leads_through_a_goal(pair):
    _, wrapped = pair
    data = sequences(4)
    embed, _ = with_goals(data)
    embed.requires_grad_()
    rollout, _ = wrapped.observe(embed, data.action, data.reset, wrapped.initial(3))
    rollout.feat.square().sum().backward()
    assert embed.grad[..., :EMBED].any()
    assert not embed.grad[..., EMBED:].any()


def test_a_state_without_a_goal_is_refused(pair):
    backbone, wrapped = pair
    with pytest.raises(UserError, match="was not made by this model"):
        wrapped.img_step(torch.zeros(3, ACTION), backbone.initial(3))


def test_a_world_model_of_observed_goals_is_built_around_them():
    model = randomize(build_model(config("dynamics=implicit"), WITH_GOAL, ACTION))
    obs = {
        key: torch.randint(256, (3, *shape), dtype=dtype) if dtype == torch.uint8 else torch.randn(3, *shape)
        for key, (shape, dtype) in WITH_GOAL.items()
    }
    state = model.obs_step(obs, torch.zeros(3, ACTION), torch.ones(3, dtype=torch.bool), model.initial(3))
    goal = {key.removeprefix("goal_"): value for key, value in obs.items() if key.startswith("goal_")}
    torch.testing.assert_close(state.feat[:, -model.dynamics.goal_dim :], model.encode_goal(goal))
    assert set(model.decode(state.feat)) == {"pixels", "state"}
    assert model.encoder.observations == WITH_GOAL
