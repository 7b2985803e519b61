"""Layers, encoders, decoders and heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from model_cases import ACTION, BOTH, PIXELS, STATE, batch
from torch import nn

from worldmodels.config import load_config
from worldmodels.errors import UserError
from worldmodels.factory import build_model, build_planner
from worldmodels.nets.decoders import Decoder, PixelDecoder, StateDecoder
from worldmodels.nets.distributions import symexp, symlog
from worldmodels.nets.encoders import Encoder
from worldmodels.nets.layers import MLP, BlockLinear, NetStyle, init_linear_
from worldmodels.nets.pooled import BlockDecoder, DoublingConv, PooledEncoder
from worldmodels.nets.valid_convolutions import ValidEncoder
from worldmodels.testing.sequences import randomize


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Layers


def test_a_block_linear_map_is_block_diagonal():
    layer = randomize(BlockLinear(6, 9, 3))
    x = torch.randn(4, 6, generator=seeded())
    expected = x @ torch.block_diag(*layer.weight) + layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda: init_linear_(nn.Linear(400, 300)), 400),
        (lambda: init_linear_(nn.Conv2d(30, 60, 4)), 30 * 16),
        (
            lambda: init_linear_(nn.ConvTranspose2d(60, 30, 4, stride=2)),
            60 * 16 / 4,
        ),  # stride 2 reads a quarter of the kernel
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
    assert [type(m).__name__ for m in MLP(3, 4, 2)] == ["DenseNormAct"] * 2
    assert MLP(3, 4, 2).out_dim == 4
    assert MLP(3, 4, 2, 7).out_dim == 7
    assert not MLP(3, 4, 2, 7, out_scale=0.0)[-1].weight.any()


# Observations


@pytest.mark.parametrize(("side", "cells", "channels"), [(16, 4, 4), (32, 4, 6), (48, 6, 6), (64, 4, 8), (96, 6, 8)])
@pytest.mark.parametrize("lead", [(3,), (2, 5)])
def test_encoders_take_any_leading_axes_and_sizes(side, cells, channels, lead):
    spec = {"pixels": ((3, side, side), torch.uint8), "state": ((4,), torch.float32)}
    encoder = randomize(Encoder(spec, depth=2, units=6, layers=1))
    obs = {"pixels": torch.randint(256, (*lead, 3, side, side), dtype=torch.uint8), "state": torch.randn(*lead, 4)}
    embed = encoder(obs)
    assert embed.shape == (*lead, *encoder.embed_shape)
    assert encoder.embed_shape == (channels * cells**2 + 6,)
    one = encoder({key: value.flatten(0, len(lead) - 1)[-1:] for key, value in obs.items()})
    torch.testing.assert_close(embed.flatten(0, -2)[-1:], one)


def test_each_kind_of_observation_has_its_part_of_the_embedding():
    encoder = randomize(Encoder(BOTH, depth=2, units=6, layers=1))
    rows = batch()
    for key, changed in (("pixels", slice(0, 64)), ("state", slice(64, 70))):
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
    expected = torch.tensor([0.2**2, 0.0, 0.8**2]) * 3 * 64 * 64  # which images of every size weigh
    torch.testing.assert_close(decoder.loss(feat, images), expected, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 32, 32), (3, 64, 64), (9, 64, 64), (1, 32, 32)])
def test_images_weigh_alike_whatever_their_size(shape):
    """A plain sum at DreamerV3's 3 x 64 x 64."""
    decoder = PixelDecoder(7, shape, depth=1)
    nn.init.zeros_(decoder.layers[-1].weight)
    nn.init.zeros_(decoder.layers[-1].bias)
    black = torch.zeros(2, *shape, dtype=torch.uint8)
    torch.testing.assert_close(decoder.loss(torch.randn(2, 7), black), torch.full((2,), 0.25 * 3 * 64 * 64))


@pytest.mark.parametrize("shape", [(3, 40, 40), (3, 32, 64), (3, 8, 8), (3, 0, 0)])
def test_image_sizes_that_do_not_fit_are_refused(shape):
    for make in (
        lambda: Encoder({"pixels": (shape, torch.uint8)}, 2, 4),
        lambda: PixelDecoder(4, shape, 2),
        lambda: PooledEncoder(shape, 2),
        lambda: BlockDecoder(4, shape, 2, 3),
    ):
        with pytest.raises(UserError, match=rf"multiple of 16 pixels .*, not {shape[1]}x{shape[2]}\.$"):
            make()


def test_decoders_mirror_the_observations():
    decoder = randomize(Decoder(7, BOTH, depth=2, units=5, layers=1))
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
    decoder = randomize(Decoder(7, BOTH, depth=2, units=5, layers=1))
    with torch.no_grad():
        loss, decoded = decoder.loss(feat, rows), decoder(feat)
    pixels = (decoded["pixels"].double().numpy() - rows["pixels"].numpy() / 255) ** 2
    np.testing.assert_allclose(loss["pixels"], 16 * pixels.sum((2, 3, 4)), rtol=1e-5)
    state = (symlog(decoded["state"].double()) - symlog(rows["state"].double())).square()
    np.testing.assert_allclose(loss["state"], state.sum(2), rtol=1e-4)


def test_state_decoder__predicts_in_symlog():
    """The loss is taken in symlog, and decoded states are in their own units."""
    decoder = StateDecoder(3, (2,), 4, 1)
    nn.init.zeros_(decoder.net[-1].weight)
    decoder.net[-1].bias.data = torch.tensor([3.0, -0.5])
    feat = torch.randn(1, 1, 3)
    torch.testing.assert_close(decoder(feat), symexp(torch.tensor([[[3.0, -0.5]]])))
    target = symexp(torch.tensor([[[2.0, -0.5]]]))
    torch.testing.assert_close(decoder.loss(feat, target), torch.tensor([[1.0]]))


# Initial weights


def test_a_deviation_for_all_weights_spares_what_begins_at_zero():
    style = NetStyle(init_std=0.02)
    net, image = MLP(300, 300, 1, 300, 0.1, style), init_linear_(torch.nn.Conv2d(64, 64, 3), style=style)
    assert torch.equal(MLP(300, 300, 1, 300, 0.0, style)[-1].weight, torch.zeros(300, 300))
    assert [round(layer.std().item(), 3) for layer in (net[0][0].weight, net[1].weight)] == [0.02, 0.02]
    assert image.weight.std().item() == pytest.approx(576**-0.5, rel=0.02)
    assert MLP(300, 300, 1)[0][0].weight.std().item() == pytest.approx(300**-0.5, rel=0.02)


def test_tdmpc2_begins_with_weights_of_its_published_deviation():
    cfg = load_config(["experiment=tdmpc2_cpu"])
    world = build_model(cfg, STATE, ACTION)
    planner = build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec, nets=cfg.nets)
    weights = {
        "dynamics": world.dynamics.transition[0][0][0].weight,
        "encoder": world.encoder.state[0][0].weight,
        "reward": world.heads["reward"].net[0][0].weight,
        "policy": planner.learner.actor.out["mean"].weight,
        "q": planner.learner.q.nets.hidden[1].weight,
    }
    assert {name: round(weight.std().item(), 3) for name, weight in weights.items()} == dict.fromkeys(weights, 0.02)
    assert all(
        torch.equal(a, b)
        for a, b in zip(planner.learner.q.parameters(), planner.learner.target.parameters(), strict=True)
    )


def test_valid_convolutions_read_one_size():
    """64x64, as TD-MPC2's code asserts: its 512 numbers are the latent's."""
    assert ValidEncoder((9, 64, 64), 32).out_dim == 512
    with pytest.raises(UserError, match=r"64x64 pixels, not 32x32"):
        ValidEncoder((9, 32, 32), 32)


def test_small_images_have_fewer_stages_and_the_same_end():
    for size, channels in ((16, 12), (32, 16), (64, 16)):
        shape = (3, size, size)
        encoder = PooledEncoder(shape, 4)
        assert encoder(torch.zeros(1, *shape)).shape == (1, encoder.out_dim) == (1, channels * 4 * 4)
        assert BlockDecoder(10, shape, 8, 4, memory_dim=8)(torch.zeros(2, 10)).shape == (2, *shape)


@pytest.mark.parametrize("options", [{"memory_dim": 12}, {"memory_dim": 8, "depth": 3}])
def test_a_block_decoder_needs_equal_groups(options):
    with pytest.raises(UserError, match="8 equal groups"):
        BlockDecoder(20, (3, 64, 64), **{"depth": 4, "units": 4, **options})


def test_images_are_moved_while_acting_where_that_is_asked_for():
    image = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64).to(torch.uint8)
    moving = Encoder({"pixels": ((3, 64, 64), torch.uint8)}, 2, 4, random_shift=3, shift_acting=True).eval()
    still = Encoder({"pixels": ((3, 64, 64), torch.uint8)}, 2, 4, random_shift=3).eval()
    for encoder, different in ((moving, True), (still, False)):
        seen = {encoder(encoder.augment({"pixels": image}, seeded(n))).sum().item() for n in (0, 0, 1, 2, 3)}
        assert (len(seen) > 1) == different
        assert len(seen) <= 4  # the same draw moves alike


def test_a_state_may_stay_as_it_is():
    spec = {"state": ((2,), torch.float32)}
    state = torch.tensor([[100.0, -3.0]])
    plain = Encoder(spec, 2, 4, 0, squash=False)({"state": state})
    assert torch.equal(plain, state)
    torch.testing.assert_close(Encoder(spec, 2, 4, 0)({"state": state}), symlog(state))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_doubling_convolution_is_one_of_the_doubled_image(size):
    layer = randomize(DoublingConv(3, 4, NetStyle()))
    image = torch.randn(2, 3, size, size, generator=seeded())
    doubled = nn.functional.interpolate(image, scale_factor=2)
    expected = nn.functional.conv2d(doubled, layer.weight, layer.bias, padding=2)
    torch.testing.assert_close(layer(image), expected, atol=1e-5, rtol=1e-5)
