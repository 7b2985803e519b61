"""What denoised plans are worth to the two scorers, where it is known."""

from __future__ import annotations

import pytest
import torch
from model_cases import ACTION, STATE, WITH_GOAL, batch, config, model, with_reset
from planner_cases import seeded
from true_models import TrueModel

from dynamics.base import FeatureSpec, State
from planners.diffusion.conditioning import Window
from planners.diffusion.plan_scoring import ImaginedReturn, PlanBatch, StepConsistency
from worldmodels.errors import OptionError
from worldmodels.factory import build_model, build_planner
from worldmodels.testing.sequences import randomize

L, STEP = 12, 0.5
TARGET = torch.tensor([2.0, 0.0])


class Plane(TrueModel):
    """Points in a plane, moved by actions; the reward is for being within 0.3 of (2, 0), shown as a goal or not."""

    def __init__(self, goal_dim, reads_arrival=True):
        super().__init__()
        self.goal_dim, self.reads_arrival = goal_dim, reads_arrival
        self.heads = {"reward": self.reward, "cont": lambda feat, action: torch.ones(action.shape[:2])}
        self.gamma, self.forward_model = 0.9, True

    def reward(self, feat, action):
        """As heads do: of the state arrived in, or of the one acted in and the action."""
        at = feat[:, 1:, :2] if self.reads_arrival else feat[:, :-1, :2] + action
        return ((at - TARGET).norm(dim=-1) < 0.3).float()

    def predict_next(self, latents, actions):
        return latents + actions

    def transition_error(self, led, shown):
        return (led - shown).square().mean(-1) / 0.01

    def arrival_error(self, led, goal):
        return (led - goal).square().mean(-1) / 0.04


def way(*moves):
    """A plan of single moves along x, standing still after them; a move in brackets is shown but not acted."""
    latents, actions = [0.0], []
    for move in [*moves, *[0.0] * L][: L - 1]:
        jump = isinstance(move, list)
        latents.append(latents[-1] + (move[0] if jump else move))
        actions.append(0.0 if jump else move)
    zero = torch.zeros(L)
    return torch.stack([torch.tensor(latents), zero], -1), torch.stack([torch.tensor([*actions, 0.0]), zero], -1)


def scored(*plans, goals=True, arrival=True):
    """Values of plans (way, end), all from the origin to the target."""
    latents, actions = (torch.stack([plan[0][i] for plan in plans])[None] for i in (0, 1))
    ends = torch.tensor([[plan[1] for plan in plans]])
    feat = torch.zeros(1, 2)
    if goals:
        latents[0, torch.arange(len(plans)), ends[0]] = TARGET  # given
        feat = torch.cat([feat, TARGET[None]], dim=-1)
    plane = Plane(2 if goals else 0, arrival)
    return StepConsistency().values(plane, plane, PlanBatch(State(feat, {}), latents, actions, ends), None)[0]


def test_the_soonest_plan_to_a_goal_without_a_jump_is_the_best():
    direct = way(STEP, STEP, STEP, STEP)
    slow = way(STEP, STEP, 0.0, 0.0, STEP, STEP)
    leap = way()  # into the goal, from where it is
    half = way(STEP, [1.0], STEP)
    late = torch.tensor(0.9).log()
    expected = [4 * late, 6 * late, 1 * late - 4 / 2 / 0.04, 3 * late - 1 / 2 / 0.01 / 3]
    torch.testing.assert_close(scored((direct, 4), (slow, 6), (leap, 1), (half, 3)), torch.stack(expected))


def zigzag(off, steps):
    """A plan of so many moves to the target, every other one ``off`` the line, which no action leads to."""
    latents, actions = way(*[2.0 / steps] * steps)
    latents[1:steps:2, 1] = off
    return latents, actions


def test_one_jump_on_a_long_way_beats_being_off_all_along():
    """As through a wall, where no single step is far off."""
    wall, around = zigzag(0.3, 5), way(*[0.2] * 4, 0.0, [0.4], *[0.2] * 4)
    late, jump = torch.tensor(0.9).log(), 1 / 2 / 0.01
    found = scored((wall, 5), (around, 10))
    expected = [5 * late - 4 * 0.3**2 * jump / 5, 10 * late - 0.4**2 * jump / 10]
    torch.testing.assert_close(found, torch.stack(expected))
    assert found[1] > found[0]


def test_a_plan_that_stands_and_leaps_into_the_goal_is_the_worst():
    """However long it stood: the mean of its jumps becomes the smaller for it."""
    off, stands = zigzag(0.3, 10), way()
    found = scored((off, 10), (stands, 11))
    torch.testing.assert_close(found[1], 11 * torch.tensor(0.9).log() - 4 / 2 / 0.04)
    assert found[1] < found[0] - 5


@pytest.mark.parametrize("arrival", [True, False])
def test_scorer__counts_foreseen_rewards_less_jumps(arrival):
    """Without a goal a plan is worth what its steps are foreseen to earn, discounted, less the cost of its jumps."""
    direct, leap, twice = way(STEP, STEP, STEP, STEP), way([2.0]), way([1.0], [1.0])
    found = scored((direct, L), (leap, L), (twice, L), goals=False, arrival=arrival)
    gammas = 0.9 ** torch.arange(L)
    torch.testing.assert_close(found[0], gammas[3:].sum())  # the fourth step arrives
    later = 0 if arrival else 1  # what is foreseen to stand still earns nothing until the next step, or the one after
    torch.testing.assert_close(found[1], gammas[1 + later :].sum() - 4 / 2 / 0.01 / (L - 1))
    torch.testing.assert_close(found[2], gammas[2 + later :].sum() - 2 * 1 / 2 / 0.01 / (L - 1))


def test_what_comes_after_the_goal_does_not_matter():
    stays, leaves = way(STEP, STEP, STEP, STEP), way(STEP, STEP, STEP, STEP, 0.0, 0.0, [5.0], -STEP)
    found = scored((stays, 4), (leaves, 4))
    assert found[0] == found[1]


def test_recorded_steps_are_foreseen_and_jump_by_one_on_average():
    torch.manual_seed(0)
    world = model("latent=gaussian", observations=STATE)
    cfg = config("planner=diffusion", "planner.plan_horizon=4", "planner.acting.replan_every=2", "denoiser.width=16",
                 "planner.learner.forward_model={units: 32, layers: 1}")  # fmt: skip
    size = world.dynamics.feat_dim
    made = build_planner(cfg.planner, ACTION, False, FeatureSpec(size, size)).learner.train()
    weights, shown = torch.randn(ACTION, size), (torch.arange(size) % 2).float()
    noise = 0.3
    optimizer = torch.optim.Adam(made.forward_model.parameters(), 1e-2)
    for _ in range(300):
        action = 2 * torch.rand(64, 4, ACTION) - 1
        moved = (action[:, :-1] @ weights + noise * torch.randn(64, 3, weights.shape[1])).cumsum(1)
        feat = torch.cat([torch.zeros_like(moved[:, :1]), moved], dim=1)
        everything = torch.ones(64, dtype=torch.bool)
        made.trajectories.normalizer.follow(made.concat(feat, action), everything)
        ends = torch.randint(1, 6, (64,))  # as far as the fourth latent; two lie beyond
        goal = torch.where(ends[:, None] < 4, feat[torch.arange(64), ends.clamp(max=3)] * shown, 1e3)
        window = Window(feat, action, feat[..., 0], None, None, goal, everything)
        optimizer.zero_grad()
        made._forward_loss(window, ends).mean().backward()
        optimizer.step()
    led = made.predict_next(feat, action)[:, :-1]
    error = (led - feat[:, 1:]).square().mean().sqrt()
    assert noise < error < 1.3 * noise
    assert made.transition_error(led, feat[:, 1:]).mean().item() == pytest.approx(1, abs=0.3)
    assert made.transition_error(led, feat[:, 1:] + 3).mean() > 20
    assert made.arrival_error(led, feat[:, 1:] * shown).mean().item() == pytest.approx(1, abs=0.4)
    assert made.arrival_error(led, (feat[:, 1:] + 6) * shown).mean() > 20
    made.step_errors.mean.zero_()
    made.step_errors.variance.zero_()  # foreseen exactly: what is 5 % of a deviation off still counts as a usual error
    off = feat[:, 1:] + 0.05 * made.trajectories.latent_std()
    torch.testing.assert_close(made.transition_error(feat[:, 1:], off), torch.ones(64, 3), atol=1e-3, rtol=1e-3)
    assert {"step_errors.variance", "step_errors.count", "arrival_errors.variance"} <= made.state_dict().keys()


def test_imagined_plans_lose_what_their_actions_do_not_lead_to():
    world = model("latent=gaussian", observations=STATE)
    cfg = config("planner=diffusion", "planner.plan_horizon=4", "planner.acting.replan_every=2", "denoiser.width=16")
    learner = randomize(build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec)).learner
    rows = with_reset(batch(observations=STATE))
    state = world.observe(rows, world.initial(2))[1].map(torch.detach)
    actions = torch.rand(2, 3, 4, ACTION) * 2 - 1
    imagined = world.imagine(world.dynamics.fork(state, 3), actions.flatten(0, 1), 4, seeded())
    latents = imagined.feat[:, :-1].unflatten(0, (2, 3)).detach()
    ends = torch.full((2, 3), 3)
    true = ImaginedReturn(2.0).values(world, learner, PlanBatch(state, latents, actions, ends), seeded())
    off = latents.clone()
    off[:, 1, 2] += 3 * learner.trajectories.latent_std()
    lost = true - ImaginedReturn(2.0).values(world, learner, PlanBatch(state, off, actions, ends), seeded())
    torch.testing.assert_close(lost, torch.tensor([[0.0, 2 * 9 / 3, 0.0]] * 2), atol=1e-3, rtol=1e-3)


def test_imagined_plans_end_with_the_critics_value():
    """Where a learner has a critic; the order of plans is then that of their whole return."""
    world = model("latent=gaussian", observations=STATE)
    words = ("planner=diffuser", "planner.plan_horizon=4", "planner.acting.replan_every=2", "denoiser.width=16")
    learner = randomize(build_planner(config(*words).planner, ACTION, False, world.dynamics.feature_spec)).learner
    rows = with_reset(batch(observations=STATE))
    state = world.observe(rows, world.initial(2))[1].map(torch.detach)
    actions = torch.rand(2, 3, 4, ACTION) * 2 - 1
    with torch.no_grad():
        imagined = world.imagine(world.dynamics.fork(state, 3), actions.flatten(0, 1), 4, seeded())
        value = learner.gamma**4 * imagined.cont.prod(1) * learner.critic(imagined.feat[:, -1])
        expected = (imagined.discounted_return(learner.gamma) + value).unflatten(0, (2, 3))
        plans = PlanBatch(state, imagined.feat[:, :-1].unflatten(0, (2, 3)), actions, torch.full((2, 3), 3))
        found = ImaginedReturn(0.0).values(world, learner, plans, seeded())
    assert value.abs().max() > 1e-3
    torch.testing.assert_close(found, expected)
    assert torch.equal(found.argsort(1), expected.argsort(1))


def test_a_scorer_says_what_it_lacks():
    words = ["planner=diffusion_goals", "denoiser.width=16", "planner.learner.forward_model=null"]
    world = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    with pytest.raises(OptionError) as refused:
        build_planner(config(*words).planner, ACTION, False, world.dynamics.feature_spec)
    assert refused.value.option == "planner.learner.forward_model"
    with pytest.raises(OptionError) as refused:
        ImaginedReturn(consistency_weight=-1.0)
    assert (refused.value.option, refused.value.value) == ("consistency_weight", -1.0)
