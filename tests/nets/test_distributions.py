"""Distributions and latent spaces against float64 NumPy written from the papers' equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodels.nets.categorical import (
    CategoricalLatent,
    SimNormLatent,
    categorical_kl,
    log_softmax,
    mix_uniform,
    mixed_probs,
    mode_one_hot,
    sample_one_hot,
    softmax,
)
from worldmodels.nets.distributions import GaussianLatent, TwoHot, symexp, symlog

BINS, LIMIT = 255, 20.0


def np_symexp(x):
    return np.sign(x) * (np.exp(np.abs(x)) - 1)


def np_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def np_two_hot(x, bins):
    """DreamerV3, eq. 10: linear between the two nearest bins."""
    out = np.zeros((len(x), len(bins)))
    for row, value in enumerate(x):
        value = np.clip(value, bins[0], bins[-1])
        k = min(max(np.searchsorted(bins, value, side="right") - 1, 0), len(bins) - 2)
        out[row, k + 1] = (value - bins[k]) / (bins[k + 1] - bins[k])
        out[row, k] = 1 - out[row, k + 1]
    return out


@pytest.fixture
def bins():
    return np_symexp(np.linspace(-LIMIT, LIMIT, BINS))


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def as_float(x):
    return torch.tensor(x, dtype=torch.float32)


def test_symlog_and_symexp_are_inverse():
    x = np.array([-1e4, -1.0, -1e-3, 0.0, 0.5, 1e4])
    np.testing.assert_allclose(symlog(as_float(x)).numpy(), np.sign(x) * np.log(1 + np.abs(x)), rtol=1e-5)
    np.testing.assert_allclose(symexp(symlog(as_float(x))).numpy(), x, rtol=1e-5)
    assert symlog(as_float(1e-12)) == symexp(as_float(1e-12)) == as_float(1e-12)


def test_bins_are_symexp_spaced(bins):
    np.testing.assert_allclose(TwoHot().bins.numpy(), bins, rtol=1e-6)
    assert torch.equal(TwoHot().bins, -TwoHot().bins.flip(0))
    with pytest.raises(ValueError, match="odd"):
        TwoHot(254)


def test_two_hot_encodes_like_the_paper(bins):
    x = np.array([0.0, 1.0, -1.0, 0.3, -0.02, 1e3, -1e3, 123.4, bins[140], 4e8, 1e12, -1e12])
    ours = TwoHot().encode(as_float(x)).numpy()
    np.testing.assert_allclose(ours, np_two_hot(x, bins), atol=1e-5)
    np.testing.assert_allclose(ours.sum(-1), 1, atol=1e-6)
    assert ((ours > 0).sum(-1) <= 2).all()


def test_the_expectation_is_taken_in_raw_space(bins, generator):
    logits = generator.normal(size=(6, BINS)) * 3
    logits[:, 170:] -= 30  # huge bins at even weight would hide all others
    logits[:, :80] -= 30
    expected = np_softmax(logits) @ bins
    np.testing.assert_allclose(TwoHot().decode(as_float(logits)).numpy(), expected, rtol=1e-4, atol=1e-5)
    half = torch.full((BINS,), -1e4)
    half[[130, 160]] = 0
    mean, in_log_space = (bins[130] + bins[160]) / 2, np_symexp((130 + 160) / 2 * 2 * LIMIT / 254 - LIMIT)
    assert TwoHot().decode(half).item() == pytest.approx(mean, rel=1e-5)
    assert abs(mean - in_log_space) > 10


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e3, -1e3, 0.37])
def test_two_hot_round_trip(value):
    two_hot = TwoHot()
    decoded = two_hot.decode(two_hot.encode(as_float([value])).log())
    assert decoded.item() == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_beyond_the_bins_is_the_last_bin(bins):
    two_hot = TwoHot()
    encoded = two_hot.encode(as_float([1e12, -1e12, float("inf")]))
    assert encoded.argmax(-1).tolist() == [BINS - 1, 0, BINS - 1]
    assert two_hot.decode(encoded.log()).tolist() == pytest.approx([bins[-1], bins[0], bins[-1]], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [0.0, 1.7, -300.0])
def test_equal_logits_decode_to_exactly_zero(dtype, level):
    decoded = TwoHot().decode(torch.full((3, 5, BINS), level, dtype=dtype))
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, torch.zeros(3, 5))


def test_two_hot_loss_is_cross_entropy(bins, generator):
    logits, x = generator.normal(size=(4, BINS)), np.array([0.0, 2.5, -700.0, 1e12])
    expected = -(np_two_hot(x, bins) * np.log(np_softmax(logits))).sum(-1)
    np.testing.assert_allclose(TwoHot().loss(as_float(logits), as_float(x)).numpy(), expected, rtol=1e-5)


def test_not_a_number_is_not_hidden():
    assert TwoHot().loss(torch.zeros(1, BINS), as_float([float("nan")])).isnan().all()


def test_a_uniform_share_is_mixed_into_probabilities(generator):
    logits = generator.normal(size=(3, 4, 5)) * 40
    expected = 0.99 * np_softmax(logits) + 0.01 / 5
    np.testing.assert_allclose(mix_uniform(as_float(logits), 0.01).exp().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(mix_uniform(as_float(logits), 0.0).exp().numpy(), np_softmax(logits), atol=1e-6)
    assert mix_uniform(as_float(logits).bfloat16(), 0.01).dtype == torch.float32
    bounded = categorical_kl(mix_uniform(as_float([200.0, 0.0]), 0.01), mix_uniform(as_float([0.0, 200.0]), 0.01))
    assert bounded < np.log(200)


def test_categorical_kl_with_unimix(generator):
    p, q = generator.normal(size=(2, 3, 20)) * 4
    space = CategoricalLatent(4, 5, unimix=0.01)
    mixed = [0.99 * np_softmax(x.reshape(3, 4, 5)) + 0.01 / 5 for x in (p, q)]
    expected = (mixed[0] * np.log(mixed[0] / mixed[1])).sum((-1, -2))
    ours = space.kl(space.params(as_float(p)), space.params(as_float(q)))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4)
    entropy = -(mixed[0] * np.log(mixed[0])).sum((-1, -2))
    np.testing.assert_allclose(space.entropy(space.params(as_float(p))).numpy(), entropy, rtol=1e-5)


def test_gaussian_golden_values(generator):
    p, q = generator.normal(size=(2, 3, 12))
    space = GaussianLatent(6, min_std=0.1)
    (mean_p, std_p), (mean_q, std_q) = ((x[:, :6], np.log1p(np.exp(x[:, 6:])) + 0.1) for x in (p, q))
    params = space.params(as_float(p))
    np.testing.assert_allclose(params[..., 0].numpy(), mean_p, rtol=1e-5)
    np.testing.assert_allclose(params[..., 1].numpy(), std_p, rtol=1e-5)
    expected = (np.log(std_q / std_p) + (std_p**2 + (mean_p - mean_q) ** 2) / (2 * std_q**2) - 0.5).sum(-1)
    np.testing.assert_allclose(space.kl(params, space.params(as_float(q))).numpy(), expected, rtol=1e-4)
    entropy = (np.log(std_p) + 0.5 * np.log(2 * np.pi * np.e)).sum(-1)
    np.testing.assert_allclose(space.entropy(params).numpy(), entropy, rtol=1e-5)
    assert space.params(as_float(np.full((1, 12), -200.0)))[..., 1].min().item() == pytest.approx(0.1)


def test_gaussian_draws():
    space = GaussianLatent(2, min_std=0.1)
    raw = torch.tensor([[0.5, -2.0, 1.0, -1.0]]).expand(20000, 4).clone().requires_grad_()
    params = space.params(raw)
    drawn = space.draw(raw, space.noise(raw, torch.Generator().manual_seed(0)))
    std = np.log1p(np.exp([1.0, -1.0])) + 0.1
    np.testing.assert_allclose(drawn.mean(0).detach().numpy(), [0.5, -2.0], atol=0.04)
    np.testing.assert_allclose(drawn.std(0).detach().numpy(), std, rtol=0.03)
    assert torch.equal(space.draw(raw, None), params[..., 0])
    drawn.sum().backward()
    assert (raw.grad[:, :2] == 1).all()
    assert (raw.grad[:, 2:] != 0).all()


def test_simnorm_has_no_noise(generator):
    raw = as_float(generator.normal(size=(3, 20)))
    space = SimNormLatent(4, 5)
    expected = np_softmax(raw.double().numpy().reshape(3, 4, 5)).reshape(3, 20)
    for noise in (space.noise(raw), None):
        np.testing.assert_allclose(space.draw(raw, noise).numpy(), expected, rtol=1e-5)


def test_draws_follow_their_probabilities():
    probs = torch.tensor([[0.5, 0.0, 0.2, 0.3], [0.0, 0.01, 0.0, 0.99]])
    uniform = torch.rand(40000, 2, generator=torch.Generator().manual_seed(0))
    drawn = sample_one_hot(probs.expand(40000, 2, 4), uniform)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), probs, atol=0.01, rtol=0)
    assert (drawn.mean(0)[probs == 0] == 0).all()
    assert (drawn[:, 0, 0] * drawn[:, 1, 3]).mean().item() == pytest.approx(0.5 * 0.99, abs=0.01)


@pytest.mark.parametrize("space", [GaussianLatent(6), CategoricalLatent(6, 4)])
def test_generators_make_noise_repeatable(space):
    raw = torch.zeros(50, space.raw_dim)
    before = torch.get_rng_state()
    one, same, other = (space.noise(raw, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("draw", [lambda probs: sample_one_hot(probs, torch.tensor([0.4])), mode_one_hot])
def test_one_hots_pass_a_straight_through_gradient(draw):
    logits = torch.tensor([[1.0, -0.5, 0.3]], requires_grad=True)
    weight = torch.tensor([0.2, -1.0, 3.0])
    hard = draw(mixed_probs(logits, 0.01))
    assert sorted(hard[0].tolist()) == [0.0, 0.0, 1.0]
    (hard @ weight).sum().backward()
    probs = np_softmax(logits.detach().double().numpy()[0])
    expected = 0.99 * probs * (weight.numpy() - probs @ weight.double().numpy())
    np.testing.assert_allclose(logits.grad[0].numpy(), expected, rtol=1e-4)


def test_the_mode_is_the_likeliest_class():
    assert mode_one_hot(torch.tensor([[0.1, 0.7, 0.2]])).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("classes", [2, 8, 15, 16, 40])
def test_a_softmax_over_few_classes_is_a_softmax(classes):
    x = torch.randn(3, 5, 4, classes, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, 4, classes, dtype=torch.float64)
    for ours, theirs in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
        torch.testing.assert_close(ours(x), theirs(x, -1))
        gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours(x), theirs(x, -1))]
        torch.testing.assert_close(*gradients)


def test_simplices_are_what_their_logarithms_say():
    space, raw = SimNormLatent(4, 8), torch.randn(5, 32)
    torch.testing.assert_close(space.simplices(raw), space.params(raw).exp().flatten(-2))
