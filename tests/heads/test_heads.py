"""Heads: what each reads, what it learns from, and a head that is neither reward nor continuation."""

from __future__ import annotations

import math

import pytest
import torch
from model_cases import ACTION, batch, model, rollout_of, with_reset
from torch import nn

from worldmodels.data.collect import require_no_end
from worldmodels.errors import UserError
from worldmodels.heads.arrival import ContinueHead, RewardHead
from worldmodels.heads.base import Head
from worldmodels.heads.transition import TerminationHead, TransitionRewardHead
from worldmodels.model import WorldModel
from worldmodels.testing.sequences import randomize


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Effort(Head):
    """Learns the size of an action from the state that it led to."""

    def __init__(self, feat_dim, action_dim):
        super().__init__()
        self.net = nn.Linear(feat_dim, 1)

    def forward(self, feat, action):
        return self.net(feat[..., 1:, :]).squeeze(-1)

    def loss(self, rollout, batch):
        return (self.net(rollout.feat).squeeze(-1) - batch["action"].norm(dim=-1)).square()


def test_a_reward_belongs_to_the_state_it_arrives_in():
    head, rows = randomize(RewardHead(6, ACTION, 8)), with_reset(batch())
    feat = torch.randn(2, 5, 6, generator=seeded())
    loss = head.loss(rollout_of(feat), rows)
    for b, t in ((0, 0), (1, 3), (0, 3)):
        alone = head.two_hot.loss(head.net(feat[b, t]), rows["reward"][b, t])
        torch.testing.assert_close(loss[b, t], alone)
    rewards = head(feat, torch.zeros(2, 4, ACTION))
    assert rewards.shape == (2, 4)
    torch.testing.assert_close(rewards[1, 2], head.two_hot.decode(head.net(feat[1, 3])), rtol=1e-4, atol=0)


def test_heads_read_nothing_but_the_arrival_state():
    feat = torch.randn(2, 5, 6, generator=seeded())
    for head in (randomize(RewardHead(6, ACTION, 8)), randomize(ContinueHead(6, ACTION, 8))):
        plain = head(feat, torch.zeros(2, 4, ACTION))
        start, action = feat.clone(), torch.ones(2, 4, ACTION)
        start[:, 0] += 1
        assert torch.equal(plain, head(start, action))
        assert plain.shape == (2, 4)
        arrival = feat.clone()
        arrival[:, 4] += 1
        assert torch.equal(plain[:, :3], head(arrival, action)[:, :3])
        assert not torch.equal(plain[:, 3], head(arrival, action)[:, 3])


def test_transition_reward__belongs_to_its_state_and_action():
    """It is predicted from the state before and the action taken there, weighted by that state, and not at a reset."""
    head, rows = randomize(TransitionRewardHead(6, ACTION, 8)), with_reset(batch())
    feat = torch.randn(2, 5, 6, generator=seeded())
    weight = torch.rand(2, 5, generator=seeded(1))
    loss = head.loss(rollout_of(feat, weight), rows)
    assert torch.equal(loss == 0, rows["reset"])
    valid = (~rows["reset"]).sum()
    for b, t in ((1, 3), (0, 4), (0, 1)):
        alone = head.two_hot.loss(head.net(torch.cat([feat[b, t - 1], rows["action"][b, t]])), rows["reward"][b, t])
        torch.testing.assert_close(loss[b, t], weight[b, t - 1] * alone * 10 / valid)
    rewards = head(feat, rows["action"][:, 1:])
    assert rewards.shape == (2, 4)
    expected = head.two_hot.decode(head.net(torch.cat([feat[1, 2], rows["action"][1, 3]])))
    torch.testing.assert_close(rewards[1, 2], expected, rtol=1e-5, atol=1e-5)  # alone, a row is added up otherwise
    moved = feat.clone()
    moved[:, 4] += 1
    assert torch.equal(rewards, head(moved, rows["action"][:, 1:]))


def test_only_real_ends_are_ends():
    head, rows = ContinueHead(6, ACTION, 8), batch()
    head.net[-1].bias.data.fill_(2.0)
    feat = torch.randn(2, 5, 6)
    expected = torch.full((2, 5), -math.log(1 / (1 + math.exp(-2))))
    expected[0, 2] = -math.log(1 - 1 / (1 + math.exp(-2)))
    torch.testing.assert_close(head.loss(rollout_of(feat), rows), expected)
    cut = {**rows, "is_last": torch.ones(2, 5, dtype=torch.bool)}
    torch.testing.assert_close(head.loss(rollout_of(feat), cut), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_predict_nothing_before_training(dtype):
    feat = 50 * torch.randn(2, 5, 6, generator=seeded())
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        reward = RewardHead(6, ACTION, 8)(feat, torch.zeros(2, 4, ACTION))
        cont = ContinueHead(6, ACTION, 8)(feat, torch.zeros(2, 4, ACTION))
    assert torch.equal(reward, torch.zeros(2, 4))
    assert torch.equal(cont, torch.full((2, 4), 0.5))
    assert reward.dtype == cont.dtype == torch.float32


def with_effort(trains_latent=True):
    world = model()
    effort = Effort(world.dynamics.feat_dim, ACTION)
    effort.trains_latent = trains_latent
    return WorldModel(world.encoder, world.dynamics, {**world.heads, "effort": effort}, dict(world.objectives))


def test_a_further_head_is_trained_and_imagined_under_its_name():
    world, rows = with_effort(), with_reset(batch())
    losses, rollout = world.losses(rows, world.initial(2))
    torch.testing.assert_close(losses["effort"], world.heads["effort"].loss(rollout, rows))
    imagined = world.imagine(world.initial(3), torch.zeros(3, 4, ACTION), 4)
    assert imagined.extra.keys() == {"effort"}
    assert torch.equal(imagined.extra["effort"], world.heads["effort"](imagined.feat, imagined.action))
    assert model().imagine(world.initial(3), torch.zeros(3, 4, ACTION), 4).extra == {}


@pytest.mark.parametrize("trains_latent", [True, False])
def test_only_a_head_that_says_so_shapes_the_latent(trains_latent):
    world, rows = with_effort(trains_latent), with_reset(batch())
    world.losses(rows, world.initial(2))[0]["effort"].mean().backward()
    reached = any(p.grad is not None and p.grad.any() for p in world.dynamics.parameters())
    assert reached == trains_latent
    assert world.heads["effort"].net.weight.grad.any()


def test_a_detached_head_leads_gradients_through_imagination():
    world = with_effort(trains_latent=False)
    plan = torch.zeros(3, 4, ACTION, requires_grad=True)
    world.imagine(world.initial(3), plan, 4).extra["effort"].sum().backward()
    assert plan.grad.any()


def test_a_model_without_reward_or_cont_is_refused():
    """Planners read both heads."""
    world = model()
    with pytest.raises(UserError, match=r"heads reward and cont.*\['reward'\]"):
        WorldModel(world.encoder, world.dynamics, {"reward": world.heads["reward"]}, dict(world.objectives))


def test_an_end_that_is_foreseen_counts_as_one():
    """Above one half an episode is over in imagination, whatever the probability (TD-MPC2)."""
    head = TerminationHead(1, ACTION, units=3, layers=0, episodic=True)
    with torch.no_grad():
        head.net[0].weight.fill_(1.0)
    feat = torch.tensor([[9.0, -3.0, -0.1, 0.1, 5.0]])[..., None]
    assert head(feat, torch.zeros(1, 4, ACTION)).tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_ends_are_learned_from_what_was_foreseen_alone():
    """The first row is grounded and teaches nothing; the others count alike, however far ahead."""
    head, rows = randomize(TerminationHead(6, ACTION, 8, episodic=True)), with_reset(batch())
    rollout = rollout_of(torch.randn(2, 5, 6, generator=seeded()))
    loss = head.loss(rollout, rows)
    assert not loss[rows["reset"]].any()
    assert not loss[:, 0].any()
    counted = loss[~rows["reset"]]
    logits = head.net(rollout.feat).squeeze(-1)[~rows["reset"]]
    expected = nn.functional.binary_cross_entropy_with_logits(logits, rows["is_terminal"][~rows["reset"]].float())
    torch.testing.assert_close(loss.mean(), expected)
    assert len(counted) < loss.numel()


def test_without_ends_nothing_is_learned_and_one_is_refused():
    head, rows = TerminationHead(6, ACTION, 8), with_reset(batch())
    rollout = rollout_of(torch.randn(2, 5, 6, generator=seeded()))
    assert not list(head.parameters())
    assert not head.loss(rollout, rows).any()
    assert head(rollout.feat, rows["action"][:, 1:]).eq(1).all()
    assert not head.ends
    require_no_end(torch.zeros(3, dtype=torch.bool), "walker")
    with pytest.raises(UserError, match=r"heads\.cont\.episodic=true"):
        require_no_end(torch.tensor([False, True]), "walker")
