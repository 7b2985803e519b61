"""Every stage of DreamerV3 computes what its authors' code computes: numbers and equations in README.md.

In float64 at 1e-9 of an array's largest entry, in float32 at 1e-5.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from golden import Golden, assert_golden
from golden_dreamerv3 import DETER, DISCOUNT, HORIZON, STOCH, batch, loaded, model_table, planner_table
from torch import Tensor

from dynamics.base import Rollout, State
from planners.actor_critic import ActorCritic
from planners.learning.critics import ReturnScale
from planners.learning.policies import OneHot, PolicyNetwork
from planners.learning.returns import lambda_returns, reach_weights, recorded_returns
from worldmodels.heads.arrival import ContinueHead
from worldmodels.model import Trajectory, WorldModel
from worldmodels.nets.categorical import CategoricalLatent, categorical_kl, mix_uniform
from worldmodels.nets.distributions import TwoHot, symexp, symlog

SCALES = {
    "dyn": 1.0,
    "rep": 0.1,
    "pixels": 1.0,
    "state": 1.0,
    "reward": 1.0,
    "cont": 1.0,
    "actor": 1.0,
    "critic": 1.0,
    "replay_critic": 0.3,
}
THEIRS = {
    "pixels": "image",
    "state": "vector",
    "cont": "continue",
    "actor": "policy",
    "critic": "value",
    "replay_critic": "repval",
}
"""Names of losses, where they are others."""
KINDS = ("contdisc", "plain")
pytestmark = pytest.mark.usefixtures("precision")


@functools.cache
def arrays() -> Golden:
    return Golden("dreamerv3")


@pytest.fixture
def golden() -> Golden:
    return arrays()


def carry(golden: Golden) -> State:
    """The state that the golden sequences continue."""
    stoch, deter = golden["in/carry_stoch"].flatten(1), golden["in/carry_deter"]
    return State(torch.cat([stoch, deter], dim=-1), {"stoch": stoch, "deter": deter})


def observed(golden: Golden, model: WorldModel) -> Rollout:
    """Filter the golden sequences with the golden latents."""
    model.dynamics.space.given = list(golden["in/post_index"].unbind(1))
    return model.observe(batch(golden), carry(golden))[0]


def features(golden: Golden) -> Tensor:
    """The golden features as ours: [stoch, deter]."""
    feat = golden["feat"]
    return torch.cat([feat[..., DETER:], feat[..., :DETER]], dim=-1)


@dataclass
class Update:
    """One forward and backward pass over everything, with the golden draws."""

    model: WorldModel
    planner: ActorCritic
    losses: dict[str, Tensor]
    imagined: Trajectory
    gradients: dict[str, Tensor]
    """By the name of the golden weight's table."""


def update(golden: Golden, kind: str, monkeypatch: pytest.MonkeyPatch) -> Update:
    """Compute every loss and gradient as training does."""
    model, planner = loaded(golden, contdisc=kind == "contdisc")
    planner.return_scale.low.fill_(golden["in/retnorm_lo"])
    planner.return_scale.high.fill_(golden["in/retnorm_hi"])
    model.dynamics.space.given = list(golden["in/post_index"].unbind(1)) + list(golden["in/imag_index"].unbind(1))
    monkeypatch.setattr(torch, "randn", lambda *shape, device: golden["in/imag_noise"])  # the policy's
    seen = []
    imagine = planner.imagine
    monkeypatch.setattr(planner, "imagine", lambda *args, **kwargs: seen.append(imagine(*args, **kwargs)) or seen[0])
    losses, rollout = model.losses(batch(golden), carry(golden))
    losses |= planner.loss(model, rollout, batch(golden))
    sum(SCALES[name] * loss.mean() for name, loss in losses.items()).backward()
    named = (*model.named_parameters(), *planner.named_parameters())
    return Update(model, planner, losses, seen[0], {name: p.grad for name, p in named if p.requires_grad})


def folded(x: Tensor) -> Tensor:
    """Losses of imagined steps [N, H] as the golden ones: mean over the horizon, one for each replayed step."""
    return x.mean(1).unflatten(0, (2, 5))


# Networks, one at a time


def test_encoders(golden):
    model, _ = loaded(golden)
    image, vector = model.encoder(batch(golden)).split([256, 16], dim=-1)
    assert_golden(image.unflatten(-1, (16, 4, 4)), golden["encoder/image_map"])
    assert_golden(vector, golden["encoder/vector"])
    assert_golden(symlog(golden["in/state"]), golden["encoder/symlog_state"])


def test_symlog_and_back(golden):
    assert_golden(symlog(golden["symlog/x"]), golden["symlog/y"])
    assert_golden(symexp(golden["symlog/y"]), golden["symlog/back"])


def test_one_step_of_the_recurrent_core(golden):
    dynamics, state = loaded(golden)[0].dynamics, carry(golden)
    x = dynamics._input(state.memory["stoch"], dynamics.from_action(golden["in/action"][:, 1].clamp(-1, 1)), None)
    deter, _ = dynamics.core.step(x, None, {"deter": state.memory["deter"]})
    assert_golden(deter, golden["gru_step/deter_next"])


def test_observing_with_resets(golden):
    model, _ = loaded(golden)
    rollout = observed(golden, model)
    assert_golden(rollout.feat[..., STOCH:], golden["observe/deter"])
    assert_golden(rollout.feat[..., :STOCH].unflatten(-1, (4, 4)), golden["observe/stoch"])
    for part in ("post", "prior"):
        assert_golden(rollout.stats[part], golden[f"observe/{part}_logits_unimix"])
        raw = mix_uniform(golden[f"observe/{part}_logits_raw"], 0.01)
        assert_golden(rollout.stats[part], raw)
    losses, metrics = model.dynamics.loss(rollout, batch(golden)["reset"]), model.dynamics.metrics(rollout)
    assert_golden(losses["dyn"], golden["observe/dyn_loss"])
    assert_golden(losses["rep"], golden["observe/rep_loss"])
    assert_golden(metrics["kl"], golden["observe/kl"])
    for part in ("post", "prior"):
        assert_golden(metrics[f"{part}_entropy"], golden[f"observe/{part}_entropy"])


def test_imagining_with_given_actions(golden):
    dynamics, state = loaded(golden)[0].dynamics, carry(golden)
    dynamics.space.given = list(golden["in/open_index"].unbind(1))
    for step in range(HORIZON):
        state = dynamics.img_step(golden["in/open_action"][:, step].clamp(-1, 1), state)
        assert_golden(state.memory["deter"], golden["imagine/deter"][:, step])
        assert_golden(state.memory["stoch"].unflatten(-1, (4, 4)), golden["imagine/stoch"][:, step])
        assert_golden(
            dynamics.prior(state.memory["deter"]).unflatten(-1, (4, 4)), golden["imagine/prior_logits_raw"][:, step]
        )


def test_decoders(golden):
    model, _ = loaded(golden)
    decoder, feat = model.objectives["reconstruction"].decoder, features(golden)
    assert_golden(decoder(feat)["pixels"], golden["decoder/image"], double=1e-6)
    assert_golden(decoder["state"].net(feat), golden["decoder/vector"])
    losses = decoder.loss(feat, batch(golden))
    assert_golden(losses["pixels"], golden["decoder/image_loss"])
    assert_golden(losses["state"], golden["decoder/vector_loss"])


def test_heads(golden):
    rollout_feat, rows = features(golden), batch(golden)
    weight = torch.ones(2, 5)
    rollout = Rollout(rollout_feat, rollout_feat, weight, {}, {})
    for kind in KINDS:
        model, _ = loaded(golden, contdisc=kind == "contdisc")
        cont = model.heads["cont"]
        assert isinstance(cont, ContinueHead)
        assert_golden(cont.net(rollout_feat).squeeze(-1), golden["continue/logit"])
        assert_golden(cont.learned(rollout_feat), golden["continue/prob"])
        assert_golden(cont.loss(rollout, rows), golden[f"continue/loss_{kind}"])
    reward = model.heads["reward"]
    assert_golden(reward.net(rollout_feat), golden["reward/logits"])
    assert_golden(reward(rollout_feat, rows["action"][:, 1:]), golden["reward/mean"][:, 1:])
    assert_golden(reward.loss(rollout, rows), golden["reward/loss"])


def test_actor_and_critics(golden):
    _, planner = loaded(golden)
    feat, raw = features(golden), golden["in/eval_action"]
    actions = planner.actor(feat)
    assert_golden(actions.mean, golden["actor/mean"])
    assert_golden(actions.std, golden["actor/std"])
    assert_golden(actions.log_prob(raw), golden["actor/logprob"])
    assert_golden(actions.entropy(raw), golden["actor/entropy"])
    for ours, theirs in ((planner.critic.net, "critic"), (planner.critic.slow, "slow")):
        assert_golden(ours(feat), golden[f"{theirs}/logits"])
        assert_golden(planner.critic.two_hot.decode(ours(feat)), golden[f"{theirs}/mean"])


@pytest.mark.parametrize(("kind", "share"), [("unimix", 0.01), ("plain", 0.0)])
def test_a_discrete_actor(golden, kind, share):
    """1 % uniform in the paper. The authors' code ignores that option, and computes with 0."""
    network = PolicyNetwork(1, 5, True, units=1, layers=0, unimix=share)
    given = golden["onehot_policy/logits"]
    network.out["logits"].forward = lambda _: given
    actions, raw = network(given[:, :1]), torch.eye(5)[golden["onehot_policy/index"]]
    assert isinstance(actions, OneHot)
    assert_golden(actions.log_probs.exp(), golden[f"onehot_policy/{kind}_probs"])
    assert_golden(actions.log_prob(raw), golden[f"onehot_policy/{kind}_logprob"])
    assert_golden(actions.entropy(raw), golden[f"onehot_policy/{kind}_entropy"])


# Distributions and returns


def test_two_hot(golden, precision):
    two_hot = TwoHot()
    logits = golden["twohot/logits"].requires_grad_()
    assert_golden(two_hot.bins, golden["twohot/bins"])
    assert_golden(two_hot.encode(golden["twohot/target"]), golden["twohot/target_weights"])
    assert_golden(two_hot.decode(logits), golden["twohot/mean"])
    loss = two_hot.loss(logits, golden["twohot/target"])
    assert_golden(loss, golden["twohot/loss"])
    assert_golden(torch.autograd.grad(loss.sum(), logits)[0], golden["twohot/grad_logits"])
    assert two_hot.decode(golden["twohot/uniform_logits"]) == golden["twohot/uniform_mean"] == 0
    if precision == torch.float32:
        torch.testing.assert_close(two_hot.bins, golden["twohot/bins_float32"], rtol=2e-6, atol=0)


@pytest.mark.parametrize(("suffix", "share"), [("", 0.01), ("__r2dreamer", 0.0)])
def test_kl_with_its_free_nats(golden, suffix, share):
    space = CategoricalLatent(4, 4, unimix=share)
    post, prior = (golden[f"kl/{part}_logits"].requires_grad_() for part in ("post", "prior"))
    p, q = space.params(post.flatten(-2)), space.params(prior.flatten(-2))
    assert_golden(categorical_kl(p, q).sum(-1), golden[f"kl/value{suffix}"])
    dyn, rep = (space.kl(a, b).clamp(min=1.0) for a, b in ((p.detach(), q), (p, q.detach())))
    assert_golden(dyn, golden[f"kl/dyn{suffix}"])
    assert_golden(rep, golden[f"kl/rep{suffix}"])
    loss = (dyn + 0.1 * rep).mean()
    if not suffix:
        assert_golden(loss, golden["kl/loss"])
    for logits, part in ((post, "post"), (prior, "prior")):
        gradient = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        assert_golden(gradient, golden[f"kl/grad_{part}_logits{suffix}"])


def test_returns_of_recorded_rows(golden):
    rows = {f"is_{key}": golden[f"lambda/{part}"] for key, part in (("last", "last"), ("terminal", "term"))}
    rows |= {"reward": golden["lambda/reward"], "is_first": torch.zeros(6, 5, dtype=torch.bool)}
    returns = recorded_returns(rows, golden["lambda/boot"][:, 1:], DISCOUNT, 0.95)
    assert_golden(returns, golden["lambda/replay"])


@pytest.mark.parametrize(
    ("name", "gamma", "lam"), [("imagined", 1.0, 0.95), ("lam0", DISCOUNT, 0.0), ("lam1", DISCOUNT, 1.0)]
)
def test_returns_of_imagined_steps(golden, name, gamma, lam):
    reward, value, cont = golden["lambda/reward"], golden["lambda/value"], 1 - golden["lambda/term_soft"]
    assert_golden(lambda_returns(reward[:, 1:], cont[:, 1:], value[:, 1:], gamma, lam), golden[f"lambda/{name}"])


def test_the_scale_of_returns(golden):
    scale = ReturnScale()
    for i, returns in enumerate(golden["percentile/returns"]):
        assert_golden(scale(returns), golden["percentile/scale"][i])
        assert_golden(scale.low, golden["percentile/lo"][i])
        assert_golden(scale.high, golden["percentile/hi"][i])


# One update, everything together


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_of_an_update(golden, kind, monkeypatch):
    found = update(golden, kind, monkeypatch)
    for name, loss in found.losses.items():
        loss = folded(loss) if name in ("actor", "critic") else loss
        assert_golden(loss, golden[f"train_{kind}/loss_{THEIRS.get(name, name)}"])
    total = sum(SCALES[name] * loss.mean() for name, loss in found.losses.items())
    assert_golden(total, golden[f"train_{kind}/total"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_update_imagines(golden, kind, monkeypatch):
    found = update(golden, kind, monkeypatch)
    planner, imagined = found.planner, found.imagined
    arrived, head = imagined.feat[:, 1:], found.model.heads["cont"]

    def theirs(name: str) -> Tensor:
        return golden[f"train_{kind}/imag_{name}"]

    assert_golden(arrived[..., STOCH:], theirs("deter"))
    logits = found.model.dynamics.prior(arrived[..., STOCH:]).unflatten(-1, (4, 4))
    assert_golden(logits, theirs("prior_logits_raw"))
    assert_golden(imagined.carry["raw"], theirs("action")[:, :-1])
    assert_golden(imagined.action, theirs("action")[:, :-1].clamp(-1, 1))
    assert_golden(imagined.reward, theirs("reward")[:, 1:])
    assert_golden(head.learned(imagined.feat), theirs("cont"))
    assert_golden(imagined.cont * head.discount, theirs("cont")[:, 1:])
    actions, raw = planner.actor(imagined.feat[:, :-1]), imagined.carry["raw"]
    assert_golden(actions.mean, theirs("mean")[:, :-1])
    assert_golden(actions.std, theirs("std")[:, :-1])
    assert_golden(actions.log_prob(raw), theirs("logprob")[:, :-1])
    assert_golden(actions.entropy(raw), theirs("entropy")[:, :-1])
    value, slow = planner.critic(imagined.feat), planner.critic.two_hot.decode(planner.critic.slow(imagined.feat))
    assert_golden(value, theirs("value"))
    assert_golden(slow, theirs("slow_value"))
    returns = lambda_returns(imagined.reward, imagined.cont, value[:, 1:], DISCOUNT, 0.95)
    assert_golden(returns, theirs("ret"))
    weight = reach_weights(head.learned(imagined.feat[:, 0]), imagined.cont, DISCOUNT)
    assert_golden(weight, theirs("weight")[:, :-1])
    assert_golden(planner.return_scale.low, theirs("retnorm_lo"))
    assert_golden(planner.return_scale.high, theirs("retnorm_hi"))
    assert_golden(planner.return_scale.scale(), theirs("scale"))
    assert_golden((returns - value[:, :-1]) / planner.return_scale.scale(), theirs("adv"))
    assert_golden(found.losses["actor"], theirs("policy_loss"))
    assert_golden(found.losses["critic"], theirs("value_loss"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_update_learns_from_replay(golden, kind, monkeypatch):
    found = update(golden, kind, monkeypatch)
    critic, imagined = found.planner.critic, found.imagined

    def theirs(name: str) -> Tensor:
        return golden[f"train_{kind}/replay_{name}"]

    with torch.no_grad():
        value = critic(imagined.feat)
        boot = lambda_returns(imagined.reward, imagined.cont, value[:, 1:], DISCOUNT, 0.95)[:, 0].unflatten(0, (2, 5))
    assert_golden(boot, theirs("boot"))
    assert_golden(critic(features(golden)), theirs("value"))
    assert_golden(critic.two_hot.decode(critic.slow(features(golden))), theirs("slow_value"))
    assert_golden(recorded_returns(batch(golden), boot[:, 1:], DISCOUNT, 0.95), theirs("ret"))
    assert_golden(found.losses["replay_critic"], theirs("loss"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_of_an_update(golden, kind, monkeypatch):
    """Stored ones entry by entry, of all others the norm. A matrix of theirs may be in several parts here."""
    found = update(golden, kind, monkeypatch)
    names = [str(name) for name in golden.arrays[f"train_{kind}/grad_names"]]
    squares = {name: torch.zeros(()) for name in names}
    for ours, source in (model_table() | planner_table()).items():
        if ours.startswith("critic.slow"):
            assert ours not in found.gradients
            continue
        gradient = found.gradients[ours]
        squares[source.name] = squares[source.name] + gradient.square().sum()
        if (stored := f"train_{kind}/grad/{source.name}") in golden.arrays:
            assert_golden(gradient, source.change(golden[stored]))
    for name, norm in zip(names, golden[f"train_{kind}/grad_norms"], strict=True):
        torch.testing.assert_close(
            squares[name].sqrt(), norm, atol=0, rtol=1e-9 if norm.dtype == torch.float64 else 1e-5
        )


def test_the_slow_critic_follows(golden):
    _, planner = loaded(golden)
    planner.after_step()
    assert_golden(planner.critic.slow[3].weight, golden["slow_update/logits_weight"])
    first = planner.critic.slow[0][0].weight
    assert_golden(torch.cat([first[:, STOCH:], first[:, :STOCH]], dim=1), golden["slow_update/lin0_weight"])
