"""Every backbone under the contract, and what is particular to stochastic latents and to the block GRU."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from core_cases import layer_norm, sigmoid
from dynamics_cases import POSTERIORS, SPACES, Subject, config, subjects

from dynamics.base import KL, Rollout
from dynamics.gru import GRU
from dynamics.latent import StochasticLatent
from worldmodels.errors import UserError
from worldmodels.nets.categorical import CategoricalLatent, SimNormLatent
from worldmodels.nets.distributions import GaussianLatent
from worldmodels.testing import DynamicsContract
from worldmodels.testing.sequences import BATCH, EMBED, imagined, observe, randomize, sequences, warm

posteriors = pytest.mark.parametrize("posterior", POSTERIORS)
spaces = pytest.mark.parametrize("space", SPACES)


FEW = [subject for subject in subjects() if subject.space in (None, SPACES[0]) and subject.posterior in (None, "obs")]
"""What `make test-fast` holds to the contract: each backbone once."""
EVERY = [pytest.param(s, marks=[pytest.mark.heavy] * (s not in FEW), id=str(s)) for s in subjects()]


@pytest.fixture(params=EVERY)
def subject(request):
    return request.param


@pytest.mark.contract
class TestContract(DynamicsContract):
    test_observing_compiles_to_one_graph_that_equals_eager = None  # shapes are checked here: see compiled_updates.py

    @pytest.fixture
    def make(self, subject):
        self.thorough = subject.space in (None, SPACES[0])
        return subject.build


def test_losses_have_the_names_that_the_configuration_scales(subject):
    dynamics, data = subject.build(), sequences(3)
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    assert dynamics.loss(rollout, data.reset).keys() == config(subject.name).dynamics.loss_scales.keys()


def rollout_of(post, prior):
    feat = torch.zeros(*post.shape[:2], 1)
    return Rollout(feat, feat, torch.ones(feat.shape[:2]), {"post": post, "prior": prior}, {})


def leaf_params(space, seed):
    raw = 2 * torch.randn(2, 5, space.raw_dim, generator=torch.Generator().manual_seed(seed))
    return space.params(raw).detach().requires_grad_()


@spaces
def test_each_side_of_the_kl_is_stopped_exactly(space):
    dynamics = Subject("rssm", "filter", space).build(free_nats=0.0)
    for name, moved, stopped in (("dyn", "prior", "post"), ("rep", "post", "prior")):
        stats = {"post": leaf_params(dynamics.space, 0), "prior": leaf_params(dynamics.space, 1)}
        loss = dynamics.loss(rollout_of(**stats), torch.zeros(2, 5, dtype=torch.bool))[name]
        torch.testing.assert_close(loss, dynamics.space.kl(stats["post"], stats["prior"]))
        loss.sum().backward()
        assert stats[stopped].grad is None
        assert (stats[moved].grad.flatten(2).abs().amax(-1) > 0).all()


def test_the_kl_is_split_one_to_a_tenth():
    scales = config("rssm").dynamics.loss_scales
    assert (scales.dyn, scales.rep) == (1.0, 0.1)


@spaces
def test_free_nats_floor_the_whole_latent_of_each_step(space):
    dynamics = Subject("rssm", "filter", space).build()
    assert dynamics.free_nats == 1.0
    same = leaf_params(dynamics.space, 0).detach()
    other = same.clone()
    other[1, 3] = leaf_params(dynamics.space, 1)[1, 3].detach()
    for name in ("dyn", "rep"):
        moved = other.clone().requires_grad_()
        stats = {"post": same, "prior": moved} if name == "dyn" else {"post": moved, "prior": same}
        loss = dynamics.loss(rollout_of(**stats), torch.zeros(2, 5, dtype=torch.bool))[name]
        expected = torch.ones(2, 5)
        expected[1, 3] = dynamics.space.kl(stats["post"], stats["prior"])[1, 3].detach()
        assert expected[1, 3] > 1
        torch.testing.assert_close(loss, expected)
        loss.mean().backward()
        pulled = moved.grad.flatten(2).abs().amax(-1) > 0
        assert pulled.nonzero().tolist() == [[1, 3]]


@torch.no_grad()
@posteriors
def test_prior_and_posterior_keep_a_uniform_share(posterior):
    dynamics = randomize(Subject("rssm", posterior, "categorical").build(), scale=20.0)
    rollout, _ = observe(dynamics, sequences(6), dynamics.initial(BATCH))
    classes = dynamics.space.classes
    for params in rollout.stats.values():
        probs = params.exp()
        torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))
        assert probs.min().item() == pytest.approx(0.01 / classes, rel=1e-3)
        assert probs.max().item() == pytest.approx(0.99 + 0.01 / classes, rel=1e-3)


@torch.no_grad()
def test_draws_of_prior_and_posterior_use_the_uniform_share():
    dynamics = randomize(Subject("rssm", "filter", "categorical").build(), scale=500.0)
    n, (groups, classes) = 4000, (dynamics.space.groups, dynamics.space.classes)
    state = dynamics.initial(n)
    action = torch.zeros(n, 2)
    drawn = {
        "prior": dynamics.img_step(action, state),
        "post": dynamics.obs_step(torch.ones(n, EMBED), action, torch.ones(n, dtype=torch.bool), state),
    }
    for name, after in drawn.items():
        frequency = after.memory["stoch"].unflatten(-1, (groups, classes)).mean(0)
        unlikely = 1 - frequency.amax(-1)
        assert unlikely.mean().item() == pytest.approx(0.01 * (classes - 1) / classes, abs=0.004), name


def test_losses_reach_the_groups_that_are_declared():
    everything = {"from_stoch", "from_action", "core", "prior", "post_embed", "post_deter", "post_out"}
    declared = {
        ("filter", "dyn"): everything,
        ("filter", "rep"): everything - {"prior"},
        ("filter", "feat"): everything - {"prior"},
        ("obs", "dyn"): everything - {"post_deter"},
        ("obs", "rep"): {"post_embed", "post_out"},
        ("obs", "feat"): everything - {"prior", "post_deter"},
    }
    for (posterior, name), groups in declared.items():
        dynamics = randomize(Subject("rssm", posterior).build(free_nats=0.0))
        data = sequences(4)
        rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
        losses = dynamics.loss(rollout, data.reset) | {"feat": rollout.feat.square()}
        losses[name].mean().backward()
        reached = {key.split(".")[0] for key, p in dynamics.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == groups, (posterior, name)


def test_only_the_posterior_may_see_the_frame():
    dynamics = randomize(Subject("rssm", "filter").build())
    dynamics.sample = False
    data = sequences(3, share=0.0)
    changed = data.clone()
    changed.embed[:, -1] += 5
    before, after = (observe(dynamics, x, dynamics.initial(BATCH))[0] for x in (data, changed))
    assert torch.equal(before.stats["prior"], after.stats["prior"])
    assert not torch.equal(before.stats["post"], after.stats["post"])


@torch.no_grad()
def test_posterior_of_the_frame_alone_does_not_see_the_past():
    """With posterior=obs the statistics are the same whatever state the sequence goes on from."""
    dynamics = randomize(Subject("rssm", "obs").build())
    data = sequences(3)
    ours, theirs = (observe(dynamics, data, warm(dynamics, seed))[0].stats["post"] for seed in (9, 10))
    assert torch.equal(ours, theirs)


def test_a_feature_is_the_latent_and_the_memory():
    dynamics = randomize(Subject("rssm", "filter").build())
    state = warm(dynamics)
    assert torch.equal(state.feat, torch.cat([state.memory["stoch"], state.memory["deter"]], dim=-1))
    assert imagined(dynamics, state).shape == (BATCH, 4, dynamics.feat_dim)


def test_an_unknown_posterior_is_a_users_mistake():
    with pytest.raises(UserError, match="Did you mean 'filter'") as caught:
        StochasticLatent(
            EMBED, 2, partial(GRU, deter=8, hidden=4, blocks=2), CategoricalLatent(4, 5), posterior="filtr"
        )
    assert (caught.value.option, caught.value.allowed) == ("posterior", ("filter", "obs"))


@pytest.mark.parametrize(
    "space", [CategoricalLatent(4, 5), SimNormLatent(4, 5), GaussianLatent(6)], ids=lambda s: type(s).__name__
)
def test_metrics_are_entropies(space):
    name = {CategoricalLatent: "categorical", SimNormLatent: "simnorm", GaussianLatent: "gaussian"}[type(space)]
    dynamics = Subject("rssm", "filter", name).build()
    rollout, _ = observe(dynamics, sequences(4), dynamics.initial(BATCH))
    metrics = dynamics.metrics(rollout)
    assert metrics.keys() == {"post_entropy", "prior_entropy", KL}
    assert not any(value.requires_grad for value in metrics.values())
    torch.testing.assert_close(metrics["prior_entropy"], space.entropy(rollout.stats["prior"].detach()))
    torch.testing.assert_close(metrics[KL], space.kl(rollout.stats["post"], rollout.stats["prior"]).detach())


def silu(x):
    return x * sigmoid(x)


@torch.no_grad()
def test_the_block_gru_is_dreamers():
    """Every block reads its own memory beside all that is shared, in float64 NumPy from the published equations."""
    blocks, deter, hidden, in_dim, n = 4, 12, 5, 7, 3
    core = randomize(GRU(in_dim, deter, hidden, blocks))
    generator = np.random.default_rng(0)
    x, h = generator.normal(size=(n, in_dim)), np.tanh(generator.normal(size=(n, deter)))
    w = {key: value.double().numpy() for key, value in core.state_dict().items()}

    mixed = layer_norm(h @ w["mix.0.weight"].T + w["mix.0.bias"], w["mix.1.weight"], w["mix.1.bias"])
    shared = np.concatenate([silu(mixed), x], axis=-1)
    size = deter // blocks
    inner = np.zeros((n, deter))
    for k in range(blocks):
        own = slice(k * size, (k + 1) * size)
        weight = np.concatenate([w["inner.weight"][k], w["inner.shared"][own].T])
        inner[:, own] = np.concatenate([h[:, own], shared], axis=-1) @ weight + w["inner.bias"][own]
    inner = silu(layer_norm(inner, w["norm.weight"], w["norm.bias"]))
    expected = np.zeros((n, deter))
    for k in range(blocks):
        own = slice(k * size, (k + 1) * size)
        bias = w["gates.bias"][3 * k * size : 3 * (k + 1) * size]
        reset, candidate, update = np.split(inner[:, own] @ w["gates.weight"][k] + bias, 3, axis=-1)
        candidate, update = np.tanh(sigmoid(reset) * candidate), sigmoid(update - 1)
        expected[:, own] = update * candidate + (1 - update) * h[:, own]

    none = torch.zeros(n, dtype=torch.bool)
    output, memory = core.step(torch.tensor(x).float(), none, {"deter": torch.tensor(h).float()})
    np.testing.assert_allclose(output.numpy(), expected, atol=2e-6)
    assert torch.equal(output, memory["deter"])
    assert torch.equal(output, core.step(torch.tensor(x).float(), None, {"deter": torch.tensor(h).float()})[0])


def test_blocks_must_divide_the_memory():
    with pytest.raises(UserError) as caught:
        GRU(6, 18, 8, 4)
    assert (caught.value.option, caught.value.value) == ("blocks", 4)
