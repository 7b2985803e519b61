"""Imagination actor-critic: returns, credit, what gradients reach, and what it learns in worlds that are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from model_cases import ACTION, STATE, batch, config, model, with_reset
from planner_cases import build, seeded
from torch import nn
from true_models import Chain, LinearGaussian

from dynamics.base import Rollout, State
from planners.learning.critics import Critic, ReturnScale
from planners.learning.policies import BoundedNormal, OneHot, PolicyNetwork, SquashedNormal
from planners.learning.returns import lambda_returns, reach_weights, recorded_returns
from worldmodels.errors import OptionError, UserError
from worldmodels.factory import build_planner

# Returns


def test_recorded_returns__stop_at_cuts_and_at_other_goals():
    """Where an episode is cut off or another goal is shown they bootstrap; at a terminal row nothing follows."""
    value = torch.tensor([[20.0, 30, 40, 50, 60]])
    batch = {key: torch.zeros(1, 6, dtype=torch.bool) for key in ("is_first", "is_last", "is_terminal")}
    batch["reward"] = torch.tensor([[0.0, 1, 2, 4, 8, 16]])
    whole = [1 + (2 + (4 + (8 + (16 + 30) / 2) / 2) / 2) / 2, 2 + (4 + (8 + 23) / 2) / 2, 4 + 31 / 2, 8 + 23, 16 + 30]
    torch.testing.assert_close(recorded_returns(batch, value, 0.5, 1.0), torch.tensor([whole]))
    cut = torch.tensor([[1 + (2 + 15) / 2, 2 + 30 / 2, 4 + 31 / 2, 8 + 23, 16 + 30]])
    episode = {**batch, "is_last": torch.arange(6)[None] == 2}
    goal = {**batch, "goal_state": (torch.arange(6) >= 2).float().expand(1, -1)[..., None].expand(-1, -1, 4)}
    for rows in (episode, goal):
        torch.testing.assert_close(recorded_returns(rows, value, 0.5, 1.0), cut)
    batch["is_terminal"][0, 2] = True
    assert recorded_returns(batch, value, 0.5, 1.0)[0, 1] == 2  # nothing follows


def test_lambda_returns_are_golden():
    r, c, v = (torch.tensor([x]) for x in ([1.0, 2.0, 4.0], [1.0, 0.5, 1.0], [10.0, 20.0, 30.0]))
    last = 4 + 0.9 * 30
    second = 2 + 0.9 * 0.5 * (0.2 * 20 + 0.8 * last)
    first = 1 + 0.9 * (0.2 * 10 + 0.8 * second)
    torch.testing.assert_close(lambda_returns(r, c, v, 0.9, 0.8), torch.tensor([[first, second, last]]))
    torch.testing.assert_close(lambda_returns(r[:, :1], c[:, :1], v[:, :1], 0.9, 0.8), torch.tensor([[1 + 0.9 * 10]]))
    torch.testing.assert_close(lambda_returns(r[:, 1:], c[:, 1:], v[:, 1:], 0.9, 0.8), torch.tensor([[second, last]]))
    td = r + 0.9 * c * v
    torch.testing.assert_close(lambda_returns(r, c, v, 0.9, 0.0), td)
    carlo = 4 + 0.9 * 30
    carlo = torch.tensor([[1 + 0.9 * (2 + 0.45 * carlo), 2 + 0.45 * carlo, carlo]])
    torch.testing.assert_close(lambda_returns(r, c, v, 0.9, 1.0), carlo)


def test_gamma_counts_once():
    ones, gamma = torch.ones(1, 5000), 1 - 1 / 333
    value = lambda_returns(ones, ones, torch.zeros(1, 5000), gamma, 1.0)[0, 0]
    assert value.item() == pytest.approx(333.0, rel=1e-3)


def test_a_cut_episode_bootstraps_and_a_terminal_one_does_not():
    r, v = torch.ones(1, 4), torch.full((1, 4), 50.0)
    cut = torch.tensor([[0.95, 0.0, 0.95, 0.95]])
    going = torch.ones(1, 4)
    bootstrapped = lambda_returns(r, going, v, 0.9, cut)
    torch.testing.assert_close(bootstrapped[0, 1], torch.tensor(1 + 0.9 * 50))
    ended = lambda_returns(r, torch.tensor([[1.0, 0.0, 1.0, 1.0]]), v, 0.9, cut)
    torch.testing.assert_close(ended[0, 1], torch.tensor(1.0))
    # What comes after the cut says nothing about what came before.
    other = lambda_returns(r + torch.tensor([[0.0, 0.0, 5.0, 5.0]]), going, v, 0.9, cut)
    assert torch.equal(other[0, :2], bootstrapped[0, :2])


def test_a_dead_start_and_what_is_never_reached_weigh_nothing():
    cont = torch.tensor([[1.0, 0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    weights = reach_weights(torch.tensor([True, False]), cont, 0.5)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5, 0.125, 0.0], [0.0] * 4]))


# Distributions


def test_squashed_normal__has_the_entropy_of_integration():
    """The mean over drawn actions is what integration gives, and log densities stay finite far out."""
    mean, log_std = torch.tensor([[0.3, -1.0]]), torch.tensor([[-0.5, 0.4]])
    actions = SquashedNormal(mean, log_std)
    raw = actions.draw(torch.randn(400_000, 2, generator=seeded()))
    grid = torch.linspace(-1 + 1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    expected = 0.0
    for m, s in zip(mean[0].double(), log_std[0].double().exp(), strict=True):
        u = torch.atanh(grid)
        p = torch.exp(-0.5 * ((u - m) / s) ** 2) / (s * (2 * torch.pi) ** 0.5) / (1 - grid**2)
        expected -= torch.trapezoid(torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0.0), grid)
    assert actions.entropy(raw).mean().item() == pytest.approx(expected.item(), abs=0.01)
    assert actions.log_prob(torch.tensor([[30.0, -30.0]])).isfinite().all()


def test_bounded_normal__is_clamped_but_not_in_its_density():
    """The world gets a clamped action; density and entropy are those of the normal before clamping."""
    actions = BoundedNormal(torch.tensor([[0.9]]), torch.tensor([[0.5]]))
    raw = actions.draw(torch.tensor([[2.0]]))
    assert raw.item() == pytest.approx(1.9)
    assert actions.action(raw).item() == 1.0
    expected = torch.distributions.Normal(0.9, 0.5)
    torch.testing.assert_close(actions.log_prob(raw), expected.log_prob(torch.tensor([1.9])))
    torch.testing.assert_close(actions.entropy(raw), expected.entropy().reshape(1))


def test_discrete_draws_have_their_probabilities_and_a_gradient():
    logits = torch.tensor([0.0, 1.0, -8.0]).requires_grad_()
    policy = PolicyNetwork(1, 3, True, units=4, layers=1)
    policy.net, policy.out["logits"] = nn.Sequential(), nn.Identity()
    actions = policy(logits.expand(100_000, 3))
    assert isinstance(actions, OneHot)
    assert actions.log_probs.exp().min() >= 0.01 / 3 - 1e-6
    drawn = actions.draw(torch.randn(100_000, 3, generator=seeded()))
    torch.testing.assert_close(drawn.mean(0), actions.log_probs[0].exp(), atol=0.01, rtol=0)
    drawn[:, 1].sum().backward()
    assert logits.grad.abs().min() > 0
    torch.testing.assert_close(actions.log_prob(drawn), (actions.log_probs * drawn).sum(-1))
    probs = actions.log_probs[0].exp()
    torch.testing.assert_close(actions.entropy(drawn)[0], -(probs * probs.log()).sum())


# The critic and the scale of returns


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_critic_says_zero(dtype):
    critic = Critic(6, 8, 1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert torch.equal(critic(20 * torch.randn(5, 6)), torch.zeros(5))


def test_the_slow_critic_follows_and_holds_back():
    critic = Critic(6, 8, 1, slow_rate=0.25)
    feat = torch.randn(7, 6)
    before = [p.clone() for p in critic.slow.parameters()]
    with torch.no_grad():
        for p in critic.net.parameters():
            p.add_(1.0)
    critic.after_step()
    for was, slow, fast in zip(before, critic.slow.parameters(), critic.net.parameters(), strict=True):
        torch.testing.assert_close(slow, was + 0.25 * (fast - was))
        assert not slow.requires_grad
    loss = critic.loss(feat, torch.zeros(7))
    without = Critic(6, 8, 1, slow_weight=0.0)
    without.load_state_dict(critic.state_dict())
    slow = critic.two_hot.decode(critic.slow(feat))
    torch.testing.assert_close(loss - without.loss(feat, torch.zeros(7)), critic.two_hot.loss(critic.net(feat), slow))


def test_return_scale__follows_percentiles_and_is_at_least_one():
    """Small returns are not blown up; the average moves in evaluation mode too and is saved."""
    scale = ReturnScale(rate=0.5)
    assert scale(torch.linspace(0, 1e-3, 101)) == 1.0
    scale = ReturnScale(rate=0.5).eval()
    returns = torch.linspace(0, 100, 101)
    torch.testing.assert_close(scale(returns), torch.tensor(45.0))
    torch.testing.assert_close(scale(returns), torch.tensor(67.5))
    restored = ReturnScale(rate=0.5)
    restored.load_state_dict(scale.state_dict())
    assert restored.scale() == scale.scale()


# Losses on a world model


def learner(*words):
    cfg = config("planner=actor_critic", "planner.imag_horizon=3", *words)
    world = model(observations=STATE)
    return world, build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec)


def losses(world, planner, **kwargs):
    rows = with_reset(batch(observations=STATE, **kwargs))
    rollout, _, _ = world.observe(rows, world.initial(len(rows["action"])))
    return planner.loss(world, rollout, rows), rows


def reached(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_each_loss_reaches_its_own_part_only(gradient):
    world, planner = learner(f"planner.gradient={gradient}")
    found, _ = losses(world, planner)
    assert found.keys() == {"actor", "critic", "replay_critic"}
    for name, part in (("actor", "actor."), ("critic", "critic.net.")):
        world.zero_grad(), planner.zero_grad()
        found[name].sum().backward(retain_graph=True)
        assert reached(planner)
        assert all(parameter.startswith(part) for parameter in reached(planner))
        assert not reached(world)


@pytest.mark.parametrize("shapes", [True, False])
def test_the_replay_critic_shapes_the_latent_only_where_asked(shapes):
    world, planner = learner(f"planner.replay_gradient={str(shapes).lower()}")
    with torch.no_grad():
        planner.critic.net[-1].weight.normal_()
    found, _ = losses(world, planner)
    found["replay_critic"].sum().backward()
    assert bool(reached(world)) == shapes


def test_terminal_starts_and_broken_successions_cost_nothing():
    world, planner = learner()
    found, rows = losses(world, planner)
    ended = rows["is_terminal"].flatten()
    assert ended.sum() == 1
    for name in ("actor", "critic"):
        assert found[name].shape == (10, 3)
        assert torch.equal(found[name][ended], torch.zeros(1, 3))
        assert (found[name][~ended] != 0).all()
    assert found["replay_critic"].shape == (2, 4)
    assert torch.equal(found["replay_critic"] == 0, rows["is_first"][:, 1:])


def test_replayed_returns_stop_at_time_limits_and_at_ends(monkeypatch):
    """One window: a time limit in row 2, an end in row 5, episodes beginning in rows 3 and 6."""
    world, planner = learner("planner.gamma=0.9", "planner.lam=0.8")
    reward = torch.tensor([9.0, 1.0, 2.0, 0.0, 4.0, 5.0, 0.0, 7.0])
    imagined = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0])
    rows = {key: torch.zeros(1, 8, dtype=torch.bool) for key in ("is_terminal", "is_last", "is_first")}
    rows["is_last"][0, [2, 5]] = rows["is_terminal"][0, 5] = rows["is_first"][0, [3, 6]] = True
    expected = torch.zeros(7)
    expected[6] = 7 + 0.9 * 80  # where the window ends
    expected[5] = 0 + 0.9 * (0.2 * 70 + 0.8 * expected[6])  # over a reset: counts nothing
    expected[4] = 5  # an end is worth its reward
    expected[3] = 4 + 0.9 * (0.2 * 50 + 0.8 * expected[4])
    expected[2] = 0 + 0.9 * (0.2 * 40 + 0.8 * expected[3])  # over a reset likewise
    expected[1] = 2 + 0.9 * 30  # a time limit: what comes after is as good as imagined
    expected[0] = 1 + 0.9 * (0.2 * 20 + 0.8 * expected[1])
    seen = []
    monkeypatch.setattr(planner.critic, "loss", lambda feat, target: seen.append(target) or torch.ones_like(target))
    feat = torch.zeros(1, 8, world.dynamics.feat_dim)
    loss = planner._replay_loss(
        Rollout(feat, feat, torch.ones(1, 8), {}, {}), rows | {"reward": reward[None]}, imagined[None]
    )
    torch.testing.assert_close(seen[0][0], expected)
    assert loss[0].tolist() == [1, 1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_entropy_is_rewarded_once(gradient):
    world, planner = learner(f"planner.gradient={gradient}")
    feat, raw = torch.randn(3, 4, world.dynamics.feat_dim), torch.randn(3, 4, ACTION)
    found = []
    for weight in (0.0, 0.5):
        planner.entropy = weight
        found.append(planner.eval()._actor_loss(feat, raw, torch.randn(3, 4) * 0, torch.ones(3, 4)))
    torch.testing.assert_close(found[1] - found[0], -0.5 * planner.actor(feat).entropy(raw))


def test_reinforce__weighs_the_score_by_the_advantage():
    """The actor's gradient is the score of drawn actions times the scaled advantage, and leads nowhere else."""
    world, planner = learner()
    planner.entropy = 0.0
    planner.eval().return_scale(1000 * torch.randn(100))  # so that the scale is above its floor
    feat = torch.randn(3, 4, world.dynamics.feat_dim)
    raw, value, returns = (torch.randn(shape, requires_grad=True) for shape in ((3, 4, ACTION), (3, 4), (3, 4)))
    planner._actor_loss(feat, raw, value, returns).sum().backward()
    found = {name: p.grad.clone() for name, p in planner.actor.named_parameters()}
    assert raw.grad is value.grad is returns.grad is None
    planner.zero_grad()
    advantage = (returns - value).detach() / planner.return_scale.scale()
    for n, t in product(range(3), range(4)):
        (-advantage[n, t] * planner.actor(feat[n, t]).log_prob(raw[n, t].detach())).backward()
    assert any(grad.abs().sum() > 0 for grad in found.values())
    for name, parameter in planner.actor.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_loss__keeps_its_batch_and_starts_where_asked():
    """A learning step leaves the batch as it is and imagines from the last planner.imag_last steps only."""
    world, planner = learner("planner.imag_last=2")
    rows = with_reset(batch(observations=STATE))
    given = {key: value.clone() for key, value in rows.items()}
    rollout, _, _ = world.observe(rows, world.initial(2))
    found = planner.loss(world, rollout, rows)
    assert all(torch.equal(rows[key], given[key]) for key in given)
    assert found["actor"].shape == (4, 3)
    assert found["replay_critic"].shape == (2, 1)


@pytest.mark.parametrize(
    ("last", "length", "option"), [(1, 8, "imag_last"), (0, 1, "data.length"), (9, 8, "imag_last")]
)
def test_check__refuses_windows_it_cannot_learn_from(last, length, option):
    """One step is too few to learn from, and imag_last must fit into data.length."""
    world, planner = learner(f"planner.imag_last={last}")
    with pytest.raises(UserError) as refused:
        planner.check(world.dynamics, length)
    assert refused.value.option == option


def test_doubling_the_batch_leaves_the_mean_losses(monkeypatch):
    world, planner = learner()
    world.dynamics.sample = False
    planner.return_scale.rate = 0.0  # percentiles of twice the numbers are a little different
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.full(size, 0.3))
    rows = with_reset(batch(observations=STATE))
    double = {key: torch.cat([value, value]) for key, value in rows.items()}
    means = []
    for data in (rows, double):
        rollout, _, _ = world.observe(data, world.initial(len(data["action"])))
        found = planner.loss(world, rollout, data)
        means.append(torch.stack([found[name].mean() for name in ("actor", "critic", "replay_critic")]))
    assert means[0].abs().min() > 1e-3
    torch.testing.assert_close(means[0], means[1], atol=1e-4, rtol=1e-4)


def test_gradient_dynamics__refuses_categorical_latents():
    """No gradient leads through them without straight_through; discrete actions need planner.gradient=reinforce."""
    cfg = config("planner=actor_critic", "planner.gradient=dynamics", "planner.imag_horizon=2")
    world = model("latent=categorical", observations=STATE)
    planner = build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec)
    with pytest.raises(OptionError) as refused:
        planner.check(world.dynamics, 8)
    assert refused.value.option == "straight_through"
    planner.straight_through = True
    planner.check(world.dynamics, 8)
    losses(world, planner)
    exact = model("latent=gaussian", observations=STATE).dynamics
    discrete = build_planner(cfg.planner, ACTION, True, exact.feature_spec)
    with pytest.raises(OptionError, match="use gradient=reinforce") as refused:
        discrete.check(exact, 8)
    assert refused.value.option == "straight_through"


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("planner.gradient=reinforced", "planner.gradient"),
        ("planner.imag_horizon=0", "planner.imag_horizon"),
        ("planner.lam=1.5", "planner.lam"),
        ("planner.imag_last=-1", "planner.imag_last"),
        ("planner.critic.slow_rate=0.0", "planner.critic.slow_rate"),
    ],
)
def test_mistaken_options_are_refused(word, option):
    with pytest.raises(OptionError) as refused:
        config("planner=actor_critic", word)
    assert refused.value.option == option


# What it learns where the truth is known


class Dreamt(nn.Module):
    """A true model whose every row of a batch is a start."""

    def __init__(self, true, starts) -> None:
        super().__init__()
        self.true, self.starts_from, self.dynamics = true, starts, self
        self.gradient, self.device = "exact", true.device

    def initial(self, n):
        return self.true.initial(n)

    def starts(self, rollout, last=None):
        return self.starts_from()

    def imagine(self, *args, **options):
        return self.true.imagine(*args, **options)


def taught(planner, true, start, updates, lr):
    """Train on imagination alone; what replay says is left out."""
    dreamt = Dreamt(true, start)
    optimizer = torch.optim.Adam([p for p in planner.parameters() if p.requires_grad], lr=lr)
    n = len(start().feat) // 2
    rows = {
        "reward": torch.zeros(n, 2),
        **{key: torch.zeros(n, 2, dtype=torch.bool) for key in ("is_terminal", "is_last", "is_first")},
    }
    feat = torch.zeros(n, 2, true.feat_dim)
    rollout = Rollout(feat, feat, torch.ones(n, 2), {}, {})
    planner.replay_gradient = False
    for step in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / updates)
        found = planner.loss(dreamt, rollout, rows)
        (found["actor"].mean() + found["critic"].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        planner.after_step()
    return planner.eval()


def test_no_gradient_leads_away_from_the_best_plan():
    """Under the exact value. Counted once for every state before it, a reward would pull at the first action."""
    true, gamma, lam = LinearGaussian(cost=0.3), 0.9, 0.95
    gain, value = true.regulator(gamma)
    planner = build("actor_critic", true)
    planner.gamma, planner.lam, planner.gradient, planner.entropy = gamma, lam, "dynamics", 0.0
    start, plan = true.start(16, 0.1), []
    feat = start.feat
    for _ in range(8):
        plan.append(-feat @ gain.T)
        feat, _, _ = true.step(feat, plan[-1])
    actions = torch.stack(plan, dim=1).requires_grad_()
    assert actions.abs().max() < 1
    imagined = true.imagine(start, actions, 8, frozen=True)
    values = -torch.einsum("nhi,ij,nhj->nh", imagined.feat, value, imagined.feat)
    returns = lambda_returns(imagined.reward, imagined.cont, values[:, 1:], gamma, lam)
    weight = reach_weights(torch.ones(16, dtype=torch.bool), imagined.cont, gamma)
    loss = planner._actor_loss(imagined.feat[:, :-1].detach(), actions, values[:, :-1], returns)
    [gradient] = torch.autograd.grad((weight * loss).mean(), actions)
    assert gradient.abs().max() < 1e-6


def actor_of_the_linear_gaussian_world(gradient, updates):
    """A trained planner, the world, states to be judged from, and the discount."""
    torch.manual_seed(0)
    true, gamma = LinearGaussian(cost=0.3), 0.9
    generator = seeded()

    def start():
        state = true.start(128)
        feat = 0.5 * torch.randn(128, 3, generator=generator)
        return replace(state, feat=feat, memory={"x": feat})

    planner = build("actor_critic", true)
    planner.gamma, planner.gradient, planner.imag_horizon = gamma, gradient, 8
    planner.entropy = 1e-4 if gradient == "reinforce" else 0.0
    return taught(planner, true, start, updates, 6e-3), true, start(), gamma


@pytest.mark.learns
@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_it_learns_the_optimum_of_the_linear_gaussian_world(gradient):
    updates = 700 if gradient == "reinforce" else 300
    planner, true, starts, gamma = actor_of_the_linear_gaussian_world(gradient, updates)
    state = starts.map(lambda x: x[:48])
    best = true.best_plan(state.feat, 30, gamma)
    with torch.no_grad():
        top = discounted(true.imagine(state, best, 30), gamma)
        got = discounted(true.imagine(state, lambda feat: planner.actor(feat).mode(), 30), gamma)
        nothing = discounted(true.imagine(state, torch.zeros_like(best), 30), gamma)
    assert ((top - got).mean() / (top - nothing).mean()).item() < 0.02
    for name in ("mppi_actor_critic", "cem_actor_critic"):  # a search guided by what was learned
        guided = build(name, true, plan_horizon=3, num_samples=128, num_elites=16, iterations=6, gamma=gamma)
        guided.learner.load_state_dict(planner.state_dict())
        searched = acted_out(true, guided.eval(), state, 30, gamma)
        assert ((top - searched).mean() / (top - nothing).mean()).item() < 0.02


@pytest.mark.learns
@pytest.mark.slow
@pytest.mark.parametrize(("gradient", "updates"), [("reinforce", 5000), ("dynamics", 3000)])
def test_it_comes_within_two_percent_of_the_optimum(gradient, updates):
    """Of the optimum itself, within the box, after minutes of training."""
    planner, true, state, gamma = actor_of_the_linear_gaussian_world(gradient, updates)
    with torch.no_grad():
        top = discounted(true.imagine(state, true.best_plan(state.feat, 30, gamma), 30), gamma).mean()
        got = discounted(true.imagine(state, lambda feat: planner.actor(feat).mode(), 30), gamma).mean()
    assert 0 <= ((top - got) / -top).item() < 0.02
    some = state.map(lambda x: x[:48])
    with torch.no_grad():
        top = discounted(true.imagine(some, true.best_plan(some.feat, 30, gamma), 30), gamma).mean()
    for name in ("mppi_actor_critic", "cem_actor_critic"):  # a search guided by what was learned
        guided = build(name, true, plan_horizon=3, num_samples=256, num_elites=32, iterations=6, gamma=gamma)
        guided.learner.load_state_dict(planner.state_dict())
        searched = acted_out(true, guided.eval(), some, 30, gamma).mean()
        assert 0 <= ((top - searched) / -top).item() < 0.02, name


def acted_out(true, planner, state, steps, gamma):
    """Discounted returns of a planner in the true world."""
    total, memory, n = 0.0, planner.initial(len(state.feat)), len(state.feat)
    for t in range(steps):
        action, memory = planner.act(true, state, memory, torch.zeros(n, dtype=torch.bool), False, seeded(t))
        feat, reward, _ = true.step(state.feat, action)
        state, total = State(feat, {"x": feat}), total + gamma**t * reward
    return total


def discounted(trajectory, gamma):
    return (trajectory.reward * gamma ** torch.arange(trajectory.reward.shape[1])).sum(1)


@pytest.mark.learns
@pytest.mark.parametrize("discrete", [True, False])
def test_it_learns_the_values_of_the_chain(discrete):
    torch.manual_seed(0)
    true, gamma = Chain(goal=4, crumb=0.0, discrete=discrete, lure=2.0), 0.8
    planner = build("actor_critic", true)
    planner.gamma, planner.imag_horizon, planner.entropy = gamma, 6, 1e-3
    planner.critic.slow_weight = 0.1  # 400 updates are too few to wait for a slow copy

    def start():
        return true.at(*[0, 1, 2, 3] * 16)

    taught(planner, true, start, 400, 1e-2)
    cells = true.at(0, 1, 2, 3)
    with torch.no_grad():
        actions = planner.actor(cells.feat).mode()
        after, _, _ = true.step(cells.feat, actions)
        values = planner.critic(cells.feat)
    assert after.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]
    torch.testing.assert_close(values, true.value(gamma)(cells.feat), atol=0.05, rtol=0)
