"""Q functions, their targets, the policy they teach, and the search that both guide."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from model_cases import ACTION, STATE, batch, config, model, with_reset
from planner_cases import build, learning, none, replanning, seeded, world
from true_models import Chain, LinearGaussian, TrueModel

from dynamics.base import FeatureSpec, Rollout, State
from planners.streams import RowStreams
from planners.tdmpc import QEnsemble, TDLearner
from worldmodels.errors import OptionError, UserError
from worldmodels.factory import build_planner
from worldmodels.nets.layers import MLP
from worldmodels.testing.sequences import randomize


def learner(feat=6, discrete=False, dropout=0.0, **options):
    small = {"units": 16, "layers": 2}
    return TDLearner(
        feat,
        ACTION,
        discrete,
        policy=small,
        q={**small, "num_q": 5, "num_bins": 101, "symlog_limit": 10.0, "dropout": dropout},
        **options,
    )


def rollout_of(feat, post=None, weight=None):
    return Rollout(
        feat, feat if post is None else post, torch.ones(feat.shape[:2]) if weight is None else weight, {}, {}
    )


def test_doubling_the_batch_leaves_the_mean_losses(monkeypatch):
    torch.manual_seed(0)
    planner = randomize(learner(dropout=0.0))
    planner.q.some = lambda count: torch.arange(count)
    planner.q_scale.rate = 0.0  # percentiles of twice the numbers are a little different
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.3))
    rows = with_reset(batch(3, 5, observations=STATE))
    feat = torch.randn(3, 5, 6)
    means = []
    for times in (1, 2):
        more = {key: torch.cat([value] * times) for key, value in rows.items()}
        found = planner.loss(TrueModel(), rollout_of(torch.cat([feat] * times)), more)
        means.append(torch.stack([loss.mean() for loss in found.values()]))
    assert means[0].abs().min() > 1e-3
    torch.testing.assert_close(means[0], means[1], atol=1e-4, rtol=1e-4)


# Q functions


def test_every_member_begins_at_zero_and_differently():
    q = QEnsemble(6, ACTION, 16, 2, 5, 101, 10.0, 0.0)
    feat, action = torch.randn(7, 6), torch.randn(7, ACTION)
    assert torch.equal(q.two_hot.decode(q(feat, action)), torch.zeros(5, 7))
    hidden = [layer.weight for layer in q.nets.hidden]
    assert [weight.shape for weight in hidden] == [(5, 6 + ACTION, 16), (5, 16, 16)]
    for weight in hidden:
        assert all(member.std() > 0.1 for member in weight)
        assert all(not torch.equal(weight[0], other) for other in weight[1:])


def test_members_compute_what_networks_of_their_own_would():
    q = randomize(QEnsemble(6, ACTION, 16, 2, 3, 11, 10.0, 0.0))
    feat, action = torch.randn(2, 7, 6), torch.randn(2, 7, ACTION)
    alone = []
    for i in range(3):
        net = MLP(6 + ACTION, 16, 2, 11)
        with torch.no_grad():
            for layer, linear, norm in zip(list(net)[:2], q.nets.hidden, q.nets.norms, strict=True):
                layer[0].weight.copy_(linear.weight[i].T)
                layer[0].bias.copy_(linear.bias[i])
                layer[1].weight.copy_(norm.gain[i])
                layer[1].bias.copy_(norm.shift[i])
            net[2].weight.copy_(q.nets.out.weight[i].T)
            net[2].bias.copy_(q.nets.out.bias[i])
        alone.append(net(torch.cat([feat, action], -1)))
    torch.testing.assert_close(q(feat, action), torch.stack(alone))
    torch.testing.assert_close(q(feat, action, torch.tensor([2, 0])), torch.stack([alone[2], alone[0]]))
    torch.testing.assert_close(q(feat, action, slice(1, 2)), alone[1][None])


def test_dropout_is_for_learning_only():
    q = randomize(QEnsemble(6, ACTION, 16, 2, 2, 101, 10.0, 0.5))
    x = torch.randn(7, 6), torch.randn(7, ACTION), slice(1)
    assert not torch.equal(q(*x), q(*x))
    q.eval()
    assert torch.equal(q(*x), q(*x))


def test_targets_are_without_dropout_while_learning():
    planner = randomize(learner(dropout=0.5))
    x = torch.randn(7, 6), torch.randn(7, ACTION), slice(1)
    assert planner.training
    assert not torch.equal(planner.q(*x), planner.q(*x))
    assert torch.equal(planner.target(*x), planner.target(*x))


def test_a_pair_is_drawn_without_replacement_from_all():
    q = QEnsemble(6, ACTION, 4, 1, 5, 11, 10.0, 0.0)
    drawn = [tuple(sorted(q.some(2).tolist())) for _ in range(300)]
    assert all(len(set(pair)) == 2 for pair in drawn)
    assert len(set(drawn)) == 10


def test_value__is_the_mean_of_the_pair_named_by_its_noise():
    """Each row's noise picks two of the Q networks, and a row alone gets the same value."""
    planner = randomize(learner())
    planner.actor.min_std = planner.actor.max_std = 1e-6
    feat = torch.randn(3, 4, 6)
    streams = lambda: RowStreams.seeded(3, seeded(), torch.device("cpu"))  # noqa: E731
    values, noise = planner.value(feat, streams()), streams().normal(5)
    for n in range(3):
        pair = noise[n].topk(2).indices
        logits = planner.q(feat[n], planner.policy(feat[n]).mode(), pair)
        torch.testing.assert_close(values[n], planner.q.two_hot.decode(logits).mean(0), atol=1e-2, rtol=1e-3)
        torch.testing.assert_close(planner.value(feat[n : n + 1], streams().select(slice(n, n + 1)))[0], values[n])


# Losses


def test_targets_are_grounded_and_know_ends_and_resets():
    torch.manual_seed(0)
    planner = randomize(learner(gamma=0.9, num_q_sampled=5))
    planner.actor.min_std = planner.actor.max_std = 1e-6
    rows = batch()
    feat, post, weight = torch.randn(2, 5, 6), torch.randn(2, 5, 6), torch.rand(2, 5)
    loss = planner.loss(TrueModel(), rollout_of(feat, post, weight), rows)["q"]
    assert loss.shape == (2, 4)
    assert loss[0, 2] == 0  # into an episode's first frame
    for b, t in ((0, 1), (1, 0), (0, 3)):
        action = planner.policy(post[b, t + 1]).mode()
        best = planner.q.two_hot.decode(planner.target(post[b, t + 1], action)).min()
        going = 0.0 if (b, t) == (0, 1) else 1.0
        target = rows["reward"][b, t + 1] + 0.9 * going * best
        logits = planner.q(feat[b, t], rows["action"][b, t + 1])
        expected = weight[b, t] * planner.q.two_hot.loss(logits, target.expand(5)).mean() * 8 / 7
        torch.testing.assert_close(loss[b, t], expected, atol=1e-4, rtol=1e-3)


def test_a_time_limit_bootstraps():
    planner = randomize(learner(num_q_sampled=5))
    planner.actor.min_std = planner.actor.max_std = 1e-6
    rows = {**batch(), "is_first": torch.zeros(2, 5, dtype=torch.bool)}
    cut = {**rows, "is_last": torch.ones(2, 5, dtype=torch.bool)}
    feat = rollout_of(torch.randn(2, 5, 6))
    plain, limited = (planner.loss(TrueModel(), feat, data)["q"] for data in (rows, cut))
    torch.testing.assert_close(plain, limited, atol=1e-2, rtol=1e-3)


def test_gradients_reach_what_they_should():
    planner = randomize(learner())
    feat = torch.randn(2, 5, 6).requires_grad_()
    post = torch.randn(2, 5, 6).requires_grad_()
    found = planner.loss(TrueModel(), rollout_of(feat, post), batch())
    found["q"].sum().backward(retain_graph=True)
    assert feat.grad.abs().sum() > 0
    assert post.grad is None
    reached = {name.split(".")[0] for name, p in planner.named_parameters() if p.grad is not None}
    assert reached == {"q"}
    feat.grad = None
    planner.zero_grad()
    planner.follow_up(TrueModel(), rollout_of(feat, post), batch())["policy"].sum().backward()
    assert feat.grad is None
    reached = {name.split(".")[0] for name, p in planner.named_parameters() if p.grad is not None}
    assert reached == {"actor"}


def test_the_policy_goes_where_q_is_high():
    torch.manual_seed(0)
    planner = learner(entropy=0.0)
    with torch.no_grad():  # Q rises with the first action alone
        planner.q.nets.out.weight.normal_()
    wanted = planner.q.forward
    planner.q.forward = lambda feat, action, members: ramp(action[..., 0], len(members))
    optimizer = torch.optim.Adam(planner.actor.parameters(), 1e-2)
    feat = torch.randn(8, 5, 6)
    rows = {**batch(size=8), "is_terminal": torch.zeros(8, 5, dtype=torch.bool)}
    for _ in range(60):
        planner._policy_loss(rollout_of(feat), rows).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert planner.policy(feat).mode()[..., 0].mean() > 0.8
    planner.q.forward = wanted


def ramp(x, members):
    """Logits of two-hot bins whose decoded value rises with x."""
    logits = torch.zeros(*x.shape, 101)
    logits = torch.cat([logits[..., :60], logits[..., 60:] + x[..., None]], dim=-1)
    return logits.expand(members, *logits.shape)


def test_targets_follow_slowly_and_learn_nothing():
    planner = learner(target_rate=0.1)
    before = [p.clone() for p in planner.target.parameters()]
    with torch.no_grad():
        for p in planner.q.parameters():
            p.add_(1.0)
    planner.after_step()
    for was, now in zip(before, planner.target.parameters(), strict=True):
        torch.testing.assert_close(now, was + 0.1 * (was + 1.0 - was), atol=1e-6, rtol=1e-5)
        assert not now.requires_grad


def test_policy_loss__rewards_entropy_once():
    """The bonus is the entropy before tanh, times its weight and the action's size, in terminal states too."""
    planner = randomize(learner(feat=6)).eval()
    rows = {"action": torch.zeros(3, 4, ACTION), "is_terminal": torch.zeros(3, 4, dtype=torch.bool)}
    rows["is_terminal"][1, 3] = True
    feat = torch.randn(3, 4, 6)
    found = []
    for weight in (0.0, 0.5):
        again = deepcopy(planner)  # a scale follows what it is shown
        again.entropy = weight
        torch.manual_seed(0)
        found.append(again._policy_loss(rollout_of(feat), rows))
    torch.manual_seed(0)
    actions = planner.policy(feat)
    entropy = actions.raw_entropy(actions.draw(torch.randn_like(rows["action"])))
    torch.testing.assert_close(found[1] - found[0], -0.5 * ACTION * entropy)


def test_it_shapes_an_implicit_latent_through_open_loop_steps():
    cfg = config("dynamics=implicit", "planner=tdmpc", "planner.search.num_samples=32", "planner.search.num_elites=4")
    made = model("dynamics=implicit", observations=STATE)
    planner = randomize(build_planner(cfg.planner, ACTION, False, made.dynamics.feature_spec))
    rows = with_reset(batch(observations=STATE))
    rollout, _, _ = made.observe(rows, made.initial(2))
    torch.testing.assert_close(rollout.weight[1], torch.tensor([1.0, 0.5, 0.25, 0.125, 1.0]))
    planner.loss(made, rollout, rows)["q"].sum().backward()
    reached = {name for name, p in made.dynamics.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("transition") for name in reached)
    assert any(name.startswith("encode") for name in reached)


# The guided search


@replanning
def test_the_plan_is_kept_for_looking_at(name):
    true, state = world(False)
    planner = build(name, true)
    _, memory = planner.act(true, state, planner.initial(5), none(5), False, seeded())
    assert memory["plan"].shape == (5, 12, 2)


@pytest.mark.parametrize("name", ["mppi_actor_critic", "cem_actor_critic", "tdmpc"])
def test_the_policys_candidates_take_part_in_every_iteration(name):
    true = LinearGaussian()
    planner = build(name, true, sample_decay=1.0)
    planner.search.guide = type(planner.search.guide)(planner.learner, 5, True)
    planner.learner.policy = Pushed
    planner.act(true, true.start(3), planner.initial(3), none(3), False, seeded())
    assert len(true.asked) == 4
    for tried in true.asked:
        candidates = tried.reshape(3, 256, 12, 2)
        assert (candidates == 0.77).all((2, 3)).sum(1).tolist() == [5, 5, 5]


class Pushed:
    """A policy that always does the same."""

    def __init__(self, feat):
        self.feat = feat

    def draw(self, noise):
        return torch.full((*self.feat.shape[:-1], 2), 0.77)

    def action(self, raw):
        return raw

    def choose(self, noise):
        return self.action(self.draw(noise))


@pytest.mark.parametrize("name", ["mppi_actor_critic", "cem_actor_critic", "tdmpc"])
def test_the_learners_value_sees_beyond_the_plan(name):
    true = Chain(goal=40, crumb=0.0)
    for seen in (True, False):
        planner = build(name, true, plan_horizon=5, gamma=0.9)
        planner.search.guide = type(planner.search.guide)(planner.learner, 0, seen)
        planner.learner.value = lambda feat, streams: true.value(0.9)(feat.flatten(0, 1)).unflatten(0, feat.shape[:2])
        start = true.at(3, 30, 10)
        _, memory = planner.act(true, start, planner.initial(3), none(3), False, seeded())
        feat = start.feat
        for t in range(4):
            feat, _, _ = true.step(feat, memory["plan"][:, t])
        assert ((feat - start.feat).flatten().tolist() == [4.0, 4.0, 4.0]) == seen


@learning
def test_without_mpc_the_policy_acts_alone(name):
    true, state = world(False)
    planner = build(name, true)
    alone = planner.trainable
    planner.mpc = False
    action, memory = planner.act(true, state, planner.initial(5), none(5), False, seeded())
    assert memory == {}
    assert torch.equal(action, alone.policy(state.feat).mode())
    assert true.asked == []


def test_a_window_of_one_step_is_refused_beforehand():
    dynamics, planner = model(observations=STATE).dynamics, build("tdmpc", world(False)[0])
    planner.check(dynamics, 2)
    with pytest.raises(UserError) as refused:
        planner.check(dynamics, 1)
    assert (refused.value.option, refused.value.value) == ("data.length", 1)


def test_more_policy_samples_than_candidates_are_refused():
    cfg = config("planner=tdmpc", "planner.search.num_samples=32", "planner.search.num_elites=16")
    with pytest.raises(OptionError, match="at most 16") as refused:
        build_planner(cfg.planner, ACTION, False, FeatureSpec(4))
    assert (refused.value.option, refused.value.value) == ("planner.policy_samples", 24)


def test_planning_with_values_as_they_are():
    true, _ = world(False)
    values = torch.tensor([[3.0, 2.0, 1.0]])
    planner = build("mppi", true, normalize_values=False, temperature=2.0)
    torch.testing.assert_close(planner.weigh(values), torch.softmax(0.5 * values, dim=1))


def update(planner, optimizer, rollout, rows):
    """Take both steps of an update: Q's, then the policy's."""
    for losses in (planner.loss, planner.follow_up):
        optimizer.zero_grad(set_to_none=True)
        sum(loss.mean() for loss in losses(TrueModel(), rollout, rows).values()).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    planner.after_step()


def missed_in_the_linear_gaussian_world(updates, units):
    """What search and policy miss of what doing nothing loses, and of the optimum, after learning from transitions."""
    torch.manual_seed(0)
    true, gamma, generator = LinearGaussian(cost=0.3), 0.8, seeded()
    guided = build(
        "tdmpc", true, units=units, plan_horizon=3, num_samples=128, num_elites=16, iterations=6, temperature=0.05
    )
    planner = guided.learner.train()
    planner.gamma, planner.target_rate, planner.entropy = gamma, 0.05, 0.0
    planner.q.nets.dropout.p = 0.0
    optimizer = torch.optim.Adam([p for p in planner.parameters() if p.requires_grad], 4e-3)
    no = torch.zeros(512, 2, dtype=torch.bool)
    for step in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / updates)
        feat = 0.6 * torch.randn(512, 3, generator=generator)
        action = 2 * torch.rand(512, 2, generator=generator) - 1
        after, reward, _ = true.step(feat, action)
        rows = {
            "action": torch.stack([torch.zeros_like(action), action], 1),
            "reward": torch.stack([torch.zeros_like(reward), reward], 1),
            "is_terminal": no,
            "is_first": no,
        }
        update(planner, optimizer, rollout_of(torch.stack([feat, after], 1)), rows)
    guided.eval()
    state = true.start(64)
    best = true.best_plan(state.feat, 30, gamma)

    def returned(policy):
        feat, total, memory = state.feat, 0.0, guided.initial(64)
        for t in range(30):
            now = State(feat, {"x": feat})
            with torch.no_grad():
                action, memory = policy(t, now, memory)
                feat, reward, _ = true.step(feat, action)
            total = total + gamma**t * reward.mean()
        return total

    top = returned(lambda t, now, memory: (best[:, t], memory))
    nothing = returned(lambda t, now, memory: (torch.zeros_like(best[:, t]), memory))
    alone = returned(lambda t, now, memory: (planner.policy(now.feat).mode(), memory))
    searched = returned(lambda t, now, memory: guided.act(true, now, memory, none(64), False, seeded(t)))
    return [(top - found) / scale for scale in (top - nothing, -top) for found in (searched, alone)]


@pytest.mark.learns
def test_it_learns_the_linear_gaussian_world_from_transitions():
    """Q learning from random actions; then returns of policy and search against the best that there is."""
    searched, alone, _, _ = missed_in_the_linear_gaussian_world(900, 32)
    assert searched < 0.02
    assert alone < 0.15


@pytest.mark.learns
@pytest.mark.slow
def test_tdmpc__comes_within_two_percent_of_the_optimum():
    """Of the optimum itself, within the box, by search and by the policy alone, after a minute of training."""
    _, _, searched, alone = missed_in_the_linear_gaussian_world(7200, 64)
    assert 0 <= searched < 0.02
    assert 0 <= alone < 0.02


@pytest.mark.learns
@pytest.mark.parametrize("discrete", [True, False])
def test_tdmpc__learns_the_chain_and_where_it_ends(discrete):
    """The policy walks to the goal, and the values are the true ones, where nothing follows the chain's end."""
    torch.manual_seed(0)
    true, gamma = Chain(goal=4, crumb=0.0, discrete=discrete, lure=2.0), 0.8
    planner = build("tdmpc", true).learner.train()
    planner.gamma, planner.target_rate, planner.entropy = gamma, 0.05, 1e-3
    planner.q.nets.dropout.p = 0.0
    optimizer = torch.optim.Adam([p for p in planner.parameters() if p.requires_grad], 1e-2)
    cells = true.at(*[0, 1, 2, 3] * 32).feat
    no = torch.zeros(len(cells), 2, dtype=torch.bool)
    for step in range(1000):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 1000)
        action = 2 * torch.rand(len(cells), true.action_dim) - 1
        if discrete:
            action = torch.eye(true.action_dim)[action.argmax(1)]
        after, reward, cont = true.step(cells, action)
        rows = {
            "action": torch.stack([torch.zeros_like(action), action], 1),
            "reward": torch.stack([torch.zeros_like(reward), reward], 1),
            "is_terminal": torch.stack([no[:, 0], cont < 0.5], 1),
            "is_first": no,
        }
        update(planner, optimizer, rollout_of(torch.stack([cells, after], 1)), rows)
    planner.eval()
    cells = true.at(0, 1, 2, 3)
    with torch.no_grad():
        action = planner.policy(cells.feat).mode()
        after, _, _ = true.step(cells.feat, action)
        values = planner.q.two_hot.decode(planner.q(cells.feat, action)).mean(0)
    assert after.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]
    torch.testing.assert_close(values, true.value(gamma)(cells.feat), atol=0.05, rtol=0)
