"""Networks, encoders, decoders, heads, objectives and the world model that joins them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contract import randomise
from model_cases import ACTION, BOTH, PIXELS, STATE, batch, config, model, with_reset
from torch import nn

from planners.returns import discounted_return
from worldmodels.build import build_model, build_planner, loss_scales
from worldmodels.decoders import Decoder, PixelDecoder, StateDecoder
from worldmodels.distributions import symexp, symlog
from worldmodels.encoders import Encoder
from worldmodels.errors import UserError
from worldmodels.heads import ContinueHead, RewardHead
from worldmodels.nets import MLP, BlockLinear, init_


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def losses_of(world, rows):
    return world.losses(rows, world.initial(len(rows["action"])))[0]


# Layers


def test_a_block_linear_map_is_block_diagonal():
    layer = randomise(BlockLinear(6, 9, 3))
    x = torch.randn(4, 6, generator=seeded())
    expected = x @ torch.block_diag(*layer.weight) + layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda: init_(nn.Linear(400, 300)), 400),
        (lambda: init_(nn.Conv2d(30, 60, 4)), 30 * 16),
        (lambda: init_(nn.ConvTranspose2d(60, 30, 4, stride=2)), 60 * 16 / 4),  # stride 2 reads a quarter of the kernel
        (lambda: BlockLinear(400, 800, 4), 100),
    ],
    ids=["linear", "conv", "transposed", "block"],
)
def test_layers_start_at_dreamers_scale(layer, fan_in):
    torch.manual_seed(0)
    made = layer()
    assert made.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert made.weight.mean().item() == pytest.approx(0, abs=0.01 * fan_in**-0.5)
    assert made.weight.abs().max() <= 2.01 * fan_in**-0.5 / 0.8796
    assert not made.bias.any()


def test_an_mlp_has_the_layers_it_says():
    assert [type(m).__name__ for m in MLP(3, 4, 2)] == ["Hidden", "Hidden"]
    assert MLP(3, 4, 2).out_dim == 4
    assert MLP(3, 4, 2, 7).out_dim == 7
    assert not MLP(3, 4, 2, 7, out_scale=0.0)[-1].weight.any()


def test_initialisation_reaches_every_parameter():
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


# Observations


@pytest.mark.parametrize("side", [16, 32, 48])
@pytest.mark.parametrize("lead", [(3,), (2, 5)])
def test_encoders_take_any_leading_axes_and_sizes(side, lead):
    spec = {"pixels": ((3, side, side), torch.uint8), "state": ((4,), torch.float32)}
    encoder = randomise(Encoder(spec, depth=2, units=6, layers=1))
    obs = {"pixels": torch.randint(256, (*lead, 3, side, side), dtype=torch.uint8), "state": torch.randn(*lead, 4)}
    embed = encoder(obs)
    assert embed.shape == (*lead, encoder.out_dim)
    assert encoder.out_dim == 8 * (side // 16) ** 2 + 6
    one = encoder({key: value.flatten(0, len(lead) - 1)[-1:] for key, value in obs.items()})
    torch.testing.assert_close(embed.flatten(0, -2)[-1:], one)


def test_each_kind_of_observation_has_its_part_of_the_embedding():
    encoder = randomise(Encoder(BOTH, depth=2, units=6, layers=1))
    rows = batch()
    for key, changed in (("pixels", slice(0, 8)), ("state", slice(8, 14))):
        other = {**rows, key: rows[key].flip(0)}
        moved = (encoder(rows) != encoder(other)).flatten(0, 1).any(0)
        assert moved[changed].any()
        assert moved.sum() == moved[changed].sum()


def test_a_state_vector_is_read_in_symlog():
    encoder = Encoder(STATE, depth=2, units=6, layers=1)
    seen = []
    encoder.state.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.tensor([[0.0, -3.0, 1e6, 0.1]])
    encoder({"state": x})
    np.testing.assert_allclose(seen[0], np.sign(x) * np.log1p(np.abs(x)), rtol=1e-6)


def test_pixels_are_scaled_once_and_alike_in_encoder_and_decoder():
    encoder, decoder = Encoder(PIXELS, depth=2, units=6), PixelDecoder(7, (3, 16, 16), depth=2)
    seen = []
    encoder.pixels.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(3, 3, 16, 16).contiguous()
    encoder({"pixels": images})
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([-0.5, -0.3, 0.5]))
    nn.init.zeros_(decoder.layers[-1].weight)
    nn.init.constant_(decoder.layers[-1].bias, math.log(0.2 / 0.8))
    feat = torch.randn(3, 7)
    torch.testing.assert_close(decoder(feat), torch.full((3, 3, 16, 16), 0.2))
    expected = torch.tensor([0.2**2, 0.0, 0.8**2]) * 3 * 16 * 16
    torch.testing.assert_close(decoder.loss(feat, images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 40, 40), (3, 32, 64), (3, 8, 8), (3, 0, 0)])
def test_image_sizes_that_do_not_fit_are_refused(shape):
    for make in (lambda: Encoder({"pixels": (shape, torch.uint8)}, 2, 4), lambda: PixelDecoder(4, shape, 2)):
        with pytest.raises(UserError, match=rf"multiple of 16 pixels, not {shape[1]}x{shape[2]}; set env\.size"):
            make()


def test_mistakes_keep_their_one_sentence_through_hydra():
    with pytest.raises(UserError, match=r"multiple of 16.*env\.size"):
        build_model(config(), {"pixels": ((3, 24, 24), torch.uint8)}, ACTION)
    with pytest.raises(UserError, match=r"neither 'pixels' nor 'state' but \['depth'\]"):
        build_model(config(), {"depth": ((3,), torch.float32)}, ACTION)
    with pytest.raises(UserError, match="Did you mean 'filter'"):
        build_model(config("dynamics.posterior=fliter"), STATE, ACTION)
    with pytest.raises(UserError):
        build_planner(config("planner.plan_horizon=2", "planner.replan_every=2").planner, ACTION, False)


def test_decoders_mirror_the_observations():
    decoder = randomise(Decoder(7, BOTH, depth=2, units=5, layers=1))
    decoded = decoder(torch.randn(2, 5, 7) * 10)
    assert {key: tuple(value.shape) for key, value in decoded.items()} == {
        "pixels": (2, 5, 3, 16, 16),
        "state": (2, 5, 4),
    }
    assert 0 <= decoded["pixels"].min() <= decoded["pixels"].max() <= 1
    assert all(value.dtype == torch.float32 for value in decoded.values())
    assert list(Decoder(7, STATE, 2, 5)) == ["state"]


def test_reconstruction_losses_sum_over_an_observation():
    rows, feat = batch(), torch.randn(2, 5, 7, generator=seeded())
    decoder = randomise(Decoder(7, BOTH, depth=2, units=5, layers=1))
    with torch.no_grad():
        loss, decoded = decoder.loss(feat, rows), decoder(feat)
    pixels = (decoded["pixels"].double().numpy() - rows["pixels"].numpy() / 255) ** 2
    np.testing.assert_allclose(loss["pixels"], pixels.sum((2, 3, 4)), rtol=1e-5)
    state = (symlog(decoded["state"].double()) - symlog(rows["state"].double())).square()
    np.testing.assert_allclose(loss["state"], state.sum(2), rtol=1e-4)


def test_states_are_predicted_in_symlog_and_decoded_in_their_units():
    decoder = StateDecoder(3, (2,), 4, 1)
    nn.init.zeros_(decoder.net[-1].weight)
    decoder.net[-1].bias.data = torch.tensor([3.0, -0.5])
    feat = torch.randn(1, 1, 3)
    torch.testing.assert_close(decoder(feat), symexp(torch.tensor([[[3.0, -0.5]]])))
    target = symexp(torch.tensor([[[2.0, -0.5]]]))
    torch.testing.assert_close(decoder.loss(feat, target), torch.tensor([[1.0]]))


# Heads


def test_a_reward_belongs_to_the_state_it_arrives_in():
    head, rows = randomise(RewardHead(6, 8)), batch()
    feat = torch.randn(2, 5, 6, generator=seeded())
    loss = head.loss(feat, rows, rows["is_first"])
    for b, t in ((0, 0), (1, 3), (0, 3)):
        alone = head.two_hot.loss(head.net(feat[b, t]), rows["reward"][b, t])
        torch.testing.assert_close(loss[b, t], alone)
    rewards = head(feat, torch.zeros(2, 4, ACTION))
    assert rewards.shape == (2, 4)
    torch.testing.assert_close(rewards[1, 2], head.two_hot.decode(head.net(feat[1, 3])))


def test_heads_read_nothing_but_the_arrival_state():
    feat = torch.randn(2, 5, 6, generator=seeded())
    for head in (randomise(RewardHead(6, 8)), randomise(ContinueHead(6, 8))):
        plain = head(feat, torch.zeros(2, 4, ACTION))
        start, action = feat.clone(), torch.ones(2, 4, ACTION)
        start[:, 0] += 1
        assert torch.equal(plain, head(start, action))
        assert plain.shape == (2, 4)
        arrival = feat.clone()
        arrival[:, 4] += 1
        assert torch.equal(plain[:, :3], head(arrival, action)[:, :3])
        assert not torch.equal(plain[:, 3], head(arrival, action)[:, 3])


def test_only_real_ends_are_ends():
    head, rows = ContinueHead(6, 8), batch()
    head.net[-1].bias.data.fill_(2.0)
    feat = torch.randn(2, 5, 6)
    expected = torch.full((2, 5), -math.log(1 / (1 + math.exp(-2))))
    expected[0, 2] = -math.log(1 - 1 / (1 + math.exp(-2)))
    torch.testing.assert_close(head.loss(feat, rows, rows["is_first"]), expected)
    cut = {**rows, "is_last": torch.ones(2, 5, dtype=torch.bool)}
    torch.testing.assert_close(head.loss(feat, cut, rows["is_first"]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_predict_nothing_before_training(dtype):
    feat = 50 * torch.randn(2, 5, 6, generator=seeded())
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        reward = RewardHead(6, 8)(feat, torch.zeros(2, 4, ACTION))
        cont = ContinueHead(6, 8)(feat, torch.zeros(2, 4, ACTION))
    assert torch.equal(reward, torch.zeros(2, 4))
    assert torch.equal(cont, torch.full((2, 4), 0.5))
    assert reward.dtype == cont.dtype == torch.float32


# The world model


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
    assert embed.shape == (3, 20, world.encoder.out_dim)


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
    torch.testing.assert_close(discounted_return(trajectory, 0.99), torch.full((3,), expected), rtol=1e-4, atol=0)


def test_the_continue_head_cuts_imagination():
    world = model()
    state, plan = world.initial(4), torch.rand(4, 5, ACTION, generator=seeded()) * 2 - 1

    def ended_by(bias):
        for part in world.heads["cont"].net[-1].parameters():
            nn.init.zeros_(part)
        nn.init.constant_(world.heads["cont"].net[-1].bias, bias)
        trajectory = world.imagine(state, plan, 5)
        return trajectory, discounted_return(trajectory, 0.9, lambda feat: torch.full((len(feat),), 1e6))

    trajectory, value = ended_by(-200.0)
    torch.testing.assert_close(value, trajectory.reward[:, 0])
    trajectory, value = ended_by(200.0)
    weights = 0.9 ** torch.arange(5)
    torch.testing.assert_close(value, (trajectory.reward * weights).sum(1) + 0.9**5 * 1e6)


def test_what_a_latent_holds_can_be_shown():
    world = model()
    decoded = world.decode(world.initial(3).feat)
    assert {key: tuple(value.shape) for key, value in decoded.items()} == {"pixels": (3, 3, 16, 16), "state": (3, 4)}
    blind = model()
    blind.objectives = nn.ModuleList()
    with pytest.raises(ValueError, match="has a decoder"):
        blind.decode(world.initial(3).feat)


def test_the_smallest_size_has_about_a_million_parameters():
    from worldmodels.cli import load_config

    world = build_model(load_config([]), {"pixels": ((3, 32, 32), torch.uint8)}, 6)
    assert 0.7e6 < sum(p.numel() for p in world.parameters()) < 1.5e6
