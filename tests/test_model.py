"""The world model that joins encoder, dynamics, heads and objectives."""

from __future__ import annotations

import math

import pytest
import torch
from model_cases import ACTION, BOTH, PIXELS, STATE, batch, config, model, with_reset
from refusals import refuses
from torch import nn

from dynamics.base import FeatureSpec
from worldmodels.config import load_config
from worldmodels.errors import MISSING, UserError
from worldmodels.factory import build_model, build_planner, loss_scales


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def losses_of(world, rows):
    return world.losses(rows, world.initial(len(rows["action"])))[0]


def test_initialization_reaches_every_parameter():
    torch.use_deterministic_algorithms(True)  # fills what is allocated and not initialised with NaN
    try:
        first, second, again = (build_model(config(f"seed={seed}"), BOTH, ACTION) for seed in (0, 1, 0))
    finally:
        torch.use_deterministic_algorithms(False)
    zero = {"heads.reward.net.1.weight", "heads.cont.net.1.weight"}
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, c), name
        if name in zero or name.endswith("bias"):
            assert not a.any(), name
        elif a.ndim == 1:
            assert torch.equal(a, torch.ones_like(a)), name
        else:
            assert a.isfinite().all(), name
            assert not (a == b).any(), name


def test_building_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    build_model(config(), STATE, ACTION)
    assert torch.equal(before, torch.get_rng_state())


def test_mistakes_keep_their_one_sentence_through_hydra():
    with pytest.raises(UserError, match="a multiple of 16 pixels"):
        build_model(config(), {"pixels": ((3, 24, 24), torch.uint8)}, ACTION)
    with pytest.raises(UserError, match=r"neither 'pixels' nor 'state' but \['depth'\]"):
        build_model(config(), {"depth": ((3,), torch.float32)}, ACTION)
    with refuses("dynamics.posterior", "fliter"):
        build_model(config("dynamics.posterior=fliter"), STATE, ACTION)
    with pytest.raises(UserError):
        build_planner(config("planner.plan_horizon=2", "planner.replan_every=2").planner, ACTION, False)


def test_acting_sees_what_training_sees():
    world, rows = model(), with_reset(batch(3, 20))
    with torch.no_grad():
        rollout, last, embed = world.observe(rows, world.initial(3))
        state = world.initial(3)
        for t in range(20):
            frame = {key: rows[key][:, t] for key in BOTH}
            state = world.obs_step(frame, rows["action"][:, t], rows["reset"][:, t], state)
            torch.testing.assert_close(state.feat, rollout.feat[:, t], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(state.feat, last.feat, atol=2e-5, rtol=2e-5)
    assert embed.shape == (3, 20, *world.encoder.embed_shape)


def test_every_loss_is_named_and_unreduced():
    for observations in (BOTH, STATE, PIXELS):
        world = model(observations=observations)
        losses = losses_of(world, with_reset(batch(observations=observations)))
        assert losses.keys() == {"dyn", "rep", "reward", "cont", *observations}
        assert losses.keys() == loss_scales(config(), observations).keys()
        assert all(loss.shape == (2, 5) and loss.dtype == torch.float32 for loss in losses.values())
        assert all(loss.isfinite().all() for loss in losses.values())


def test_doubling_batch_or_time_leaves_the_losses():
    world, rows = model(), with_reset(batch())
    once = {name: loss.mean() for name, loss in losses_of(world, rows).items()}
    for dim in (0, 1):
        twice = losses_of(world, {key: torch.cat([value, value], dim=dim) for key, value in rows.items()})
        for name, loss in twice.items():
            torch.testing.assert_close(loss.mean(), once[name], atol=1e-5, rtol=1e-5)


def test_losses_reach_the_parts_that_are_declared():
    parts = {"encoder", "dynamics.prior", "dynamics.rest", "pixels", "state", "reward", "cont"}
    rows = with_reset(batch())
    shaped = {"encoder", "dynamics.rest"}
    declared = {"dyn": shaped | {"dynamics.prior"}, "rep": shaped} | {
        name: shaped | {name} for name in ("pixels", "state", "reward", "cont")
    }
    world = model("dynamics.free_nats=0.0")
    groups = {part: set() for part in parts}
    for name, _ in world.named_parameters():
        words = name.split(".")
        part = "encoder"
        if words[0] == "dynamics":
            part = "dynamics.prior" if words[1] == "prior" else "dynamics.rest"
        elif words[0] in ("heads", "objectives"):
            part = next(word for word in words if word in parts)
        groups[part].add(name)
    for loss_name, reached in declared.items():
        world.zero_grad(set_to_none=True)
        losses_of(world, rows)[loss_name].mean().backward()
        alive = {name for name, p in world.named_parameters() if p.grad is not None and p.grad.any()}
        assert {part for part, names in groups.items() if names & alive} == reached, loss_name
        assert all(names <= alive for part, names in groups.items() if part in reached), loss_name


def test_imagining_follows_a_plan_or_a_policy():
    world = model()
    rollout, _, _ = world.observe(with_reset(batch()), world.initial(2))
    state = world.dynamics.starts(rollout)
    plan = torch.rand(10, 3, ACTION, generator=seeded()) * 2 - 1
    fixed = world.imagine(state, plan, 3)
    assert fixed.feat.shape == (10, 4, world.dynamics.feat_dim)
    assert fixed.reward.shape == fixed.cont.shape == (10, 3)
    assert torch.equal(fixed.feat[:, 0], state.feat)
    assert torch.equal(fixed.action, plan)
    by_hand = world.dynamics.img_step(plan[:, 1], world.dynamics.img_step(plan[:, 0], state))
    assert torch.equal(fixed.feat[:, 2], by_hand.feat)
    torch.testing.assert_close(
        fixed.reward[:, 1], world.heads["reward"].two_hot.decode(world.heads["reward"].net(by_hand.feat))
    )

    def policy(feat):
        return feat[:, :ACTION].tanh()

    followed = world.imagine(state, policy, 3)
    assert torch.equal(followed.action, followed.feat[:, :-1, :ACTION].tanh())
    assert torch.equal(followed.feat, world.imagine(state, followed.action, 3).feat)


def test_imagining_draws_from_its_generator_alone():
    world = model()
    world.dynamics.sample = True
    state, plan = world.initial(50), torch.zeros(50, 4, ACTION)
    before = torch.get_rng_state()
    one, same, other = (world.imagine(state, plan, 4, seeded(seed)).feat for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_returns_are_made_of_decoded_scalars_never_logits():
    world = model()
    reward, cont = world.heads["reward"].net[-1], world.heads["cont"].net[-1]
    for layer in (reward, cont):
        nn.init.zeros_(layer.weight)
    reward.bias.data = world.heads["reward"].two_hot.encode(torch.tensor(7.5)).log().clamp(min=-1e4)
    nn.init.constant_(cont.bias, math.log(0.9 / 0.1))
    trajectory = world.imagine(world.initial(3), torch.zeros(3, 4, ACTION), 4)
    torch.testing.assert_close(trajectory.reward, torch.full((3, 4), 7.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(trajectory.cont, torch.full((3, 4), 0.9))
    expected = sum(0.99**t * 0.9**t * 7.5 for t in range(4))
    torch.testing.assert_close(trajectory.discounted_return(0.99), torch.full((3,), expected), rtol=1e-4, atol=0)


def test_the_continue_head_cuts_imagination():
    world = model()
    state, plan = world.initial(4), torch.rand(4, 5, ACTION, generator=seeded()) * 2 - 1

    def ended_by(bias):
        for part in world.heads["cont"].net[-1].parameters():
            nn.init.zeros_(part)
        nn.init.constant_(world.heads["cont"].net[-1].bias, bias)
        trajectory = world.imagine(state, plan, 5)
        return trajectory, trajectory.discounted_return(0.9, lambda feat: torch.full((len(feat),), 1e6))

    trajectory, value = ended_by(-200.0)
    torch.testing.assert_close(value, trajectory.reward[:, 0])
    trajectory, value = ended_by(200.0)
    weights = 0.9 ** torch.arange(5)
    torch.testing.assert_close(value, (trajectory.reward * weights).sum(1) + 0.9**5 * 1e6)


def test_a_model_of_which_nothing_can_be_shown_is_refused():
    cfg = config()
    cfg.objective = {}
    with pytest.raises(UserError, match="put a probe beside them"):
        build_model(cfg, STATE, ACTION)


def test_what_a_latent_holds_can_be_shown():
    world = model()
    decoded = world.decode(world.initial(3).feat)
    assert {key: tuple(value.shape) for key, value in decoded.items()} == {"pixels": (3, 3, 16, 16), "state": (3, 4)}
    blind = model()
    blind.objectives = nn.ModuleDict()
    with pytest.raises(ValueError, match="has a decoder"):
        blind.decode(world.initial(3).feat)


def test_the_smallest_size_has_about_a_million_parameters():
    world = build_model(load_config([]), {"pixels": ((3, 32, 32), torch.uint8)}, 6)
    assert 0.7e6 < sum(p.numel() for p in world.parameters()) < 1.5e6


def test_what_learns_is_given_the_features():
    """A constructor that names ``features`` gets them, with the goal among them."""
    features = FeatureSpec(latent_dim=5, goal_dim=3)
    assert features.feat_dim == 8
    names = ("actor_critic", "cloning", "tdmpc")
    planners = [build_planner(config(f"planner={name}").planner, ACTION, False, features) for name in names]
    assert [planner.trainable.goal_dim for planner in planners] == [3, 3, 3]
    assert [planner.trainable.actor.net[0][0].in_features for planner in planners] == [8, 8, 8]
    denoising = build_planner(config("planner=diffusion").planner, ACTION, False, features).learner
    assert (denoising.goal_dim, denoising.trajectories.feat_dim) == (3, 5)
    assert build_planner(config("planner=random").planner, ACTION, False, features).action_dim == ACTION
    with refuses("planner.feat_dim", MISSING):
        build_planner(config("planner=cloning").planner, ACTION, False)
