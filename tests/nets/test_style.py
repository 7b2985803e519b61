"""One style for all networks: the default is what was there before, another word changes every layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_cases import ACTION, BOTH, batch, config, model, with_reset
from torch import nn

from worldmodels.errors import UserError
from worldmodels.factory import build_model, build_planner, filled_in
from worldmodels.nets.ensembles import EnsembleMLP
from worldmodels.nets.layers import MLP, DenseNormAct, NetStyle
from worldmodels.testing.sequences import randomize

RMS = NetStyle(norm="rms", act="mish", norm_eps=1e-3)
BACKBONES = ("rssm", "transformer", "ssm", "s4d", "mamba", "koopman", "implicit")


def rms(x, eps):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def norms_of(*modules):
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return [m for module in modules for m in module.modules() if isinstance(m, kinds)]


def test_the_default_layer_is_linear_layernorm_silu_to_the_bit():
    layer, x = randomize(DenseNormAct(5, 7)), torch.randn(3, 5, generator=seeded())
    linear, norm, _ = layer
    assert torch.equal(layer(x), F.silu(F.layer_norm(linear(x), (7,), norm.weight, norm.bias)))
    torch.manual_seed(0)
    plain = MLP(5, 8, 2, 3)
    torch.manual_seed(0)
    explicit = MLP(5, 8, 2, 3, style=NetStyle())
    assert torch.equal(plain(x), explicit(x))


def test_another_style_is_another_layer():
    layer, x = randomize(DenseNormAct(5, 7, RMS)), torch.randn(3, 5, generator=seeded())
    linear, norm, _ = layer
    torch.testing.assert_close(layer(x), F.mish(rms(linear(x), 1e-3) * norm.weight))


def test_an_ensemble_is_of_the_style_of_an_mlp():
    torch.manual_seed(0)
    nets, x = randomize(EnsembleMLP(2, 5, 8, 1, 3, 0.0, RMS)), torch.randn(4, 5, generator=seeded())
    for i in range(2):
        linear, norm = nets.hidden[0], nets.norms[0]
        hidden = F.mish(rms(x @ linear.weight[i] + linear.bias[i], 1e-3) * norm.gain[i])
        torch.testing.assert_close(nets(x, slice(i, i + 1))[0], hidden @ nets.out.weight[i] + nets.out.bias[i])


def test_images_are_normalized_over_channels():
    norm, x = randomize(RMS.make_image_norm(6)), torch.randn(2, 6, 4, 4, generator=seeded())
    expected = rms(x.movedim(1, -1), 1e-3) * norm.weight
    torch.testing.assert_close(norm(x), expected.movedim(-1, 1))


@pytest.mark.parametrize("name", BACKBONES)
def test_one_word_reaches_every_network(name):
    cfg = config(f"dynamics={name}", "nets.norm=rms", "nets.norm_eps=1e-3", "planner=tdmpc")
    world = build_model(cfg, BOTH, ACTION)
    planner = build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec, nets=cfg.nets)
    found = norms_of(world, planner)
    assert len(found) > 10
    assert all(isinstance(norm, nn.RMSNorm) and norm.eps == 1e-3 for norm in found)
    assert all(norm.shift is None for norm in planner.learner.q.nets.norms)
    usual = norms_of(build_model(config(f"dynamics={name}"), BOTH, ACTION))
    assert not any(isinstance(norm, nn.RMSNorm) for norm in usual)


def test_another_style_learns():
    world, rows = model("nets.norm=rms", "nets.act=mish"), with_reset(batch())
    assert not any(isinstance(m, nn.SiLU) for m in world.modules())
    losses, _ = world.losses(rows, world.initial(2))
    sum(loss.mean() for loss in losses.values()).backward()
    norms = norms_of(world)
    assert norms
    assert all(norm.weight.grad.isfinite().all() and norm.weight.grad.any() for norm in norms)


def test_only_constructors_that_take_a_style_are_given_one():
    nets = {"_target_": "worldmodels.nets.layers.NetStyle", "norm": "rms"}
    core = {"_target_": "dynamics.gru.GRU", "deter": 8}
    space = {"_target_": "worldmodels.nets.distributions.GaussianLatent", "dim": 4}
    own = {"_target_": "dynamics.koopman.Koopman", "style": {"norm": "layer"}}
    found = filled_in({"core": core, "list": [space], "own": own, "units": 3}, style=nets)
    assert found == {"core": core | {"style": nets}, "list": [space], "own": own, "units": 3}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"norm": "rsm"}, r"norm=rsm must be one of layer, rms\. Did you mean 'rms'"),
        ({"act": "sily"}, r"act=sily must be one of .* Did you mean 'silu'"),
        ({"init_std": 0.0}, "init_std=0.0 must be a number above 0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be a number above 0"),
    ],
)
def test_a_style_that_is_none_is_refused(option, message):
    with pytest.raises(UserError, match=message):
        NetStyle(**option)
