"""Diffusion planning: samplers against Gaussians, what is given stays, guidance, and what is reused of a plan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from model_cases import ACTION, STATE, WITH_GOAL, batch, config, model, with_reset
from planner_cases import seeded

from dynamics.base import FeatureSpec, State
from planners.base import Decision, require_actions
from planners.diffusion.conditioning import OptimalityLabel, ReturnLabel, Window
from planners.diffusion.denoisers import TemporalUNet, TrajectoryTransformer
from planners.diffusion.guidance import GuidedPlans
from planners.diffusion.noise_schedule import SAMPLERS, NoiseSchedule, Sampler
from planners.diffusion.trajectory_model import Condition, Normalizer, TrajectoryModel
from planners.learning.critics import Critic
from planners.search.proposals import color_noise
from planners.streams import RowStreams
from worldmodels.errors import OptionError
from worldmodels.factory import build_model, build_planner
from worldmodels.testing.sequences import randomize

CPU = torch.device("cpu")
L = 6


def nets():
    return [
        lambda **kw: TemporalUNet(width=16, scales=(1,), kernel=3, **kw),
        lambda **kw: TemporalUNet(width=16, scales=(1, 2), kernel=3, **kw),
        lambda **kw: TrajectoryTransformer(width=16, layers=2, heads=2, **kw),
    ]


def trajectories(net=0, feat=3, action=2, labels=None, prediction="sample", **options):
    torch.manual_seed(0)
    schedule = NoiseSchedule(20, prediction)
    made = TrajectoryModel(feat, action, labels or {}, schedule, nets()[net], cond_dim=8, **options)
    return randomize(made)


def all_of(x):
    return torch.ones(len(x), dtype=torch.bool)


JOINT = (
    "planner.learner.trajectories.latents=true",
    "planner.learner.trajectories.levels=1",
    "planner.learner.every_offset=false",
    "planner.learner.ema_decay=0.0",
    "planner.learner.critic=null",
    "planner.acting.candidates=4",
    "planner.acting.warm_candidates=4",
)
"""Latents and actions together, as most diffusion planners have them."""


def planner(*words, discrete=False, observations=STATE):
    cfg = config(
        "planner=diffusion",
        *JOINT,
        f"planner.plan_horizon={L}",
        "denoiser.width=16",
        "planner.learner.trajectories.schedule.steps=20",
        "planner.acting.steps=4",
        "planner.acting.replan_every=2",
        *words,
    )
    world = model("latent=gaussian", observations=observations)
    made = build_planner(cfg.planner, ACTION, discrete, world.dynamics.feature_spec)
    return world, randomize(made)


# Schedules and samplers


def streams(rows, generator=None):
    return RowStreams.seeded(rows, generator or seeded(), CPU)


class Bell:
    """A Gaussian whose every conditional mean is known."""

    mean = torch.tensor([1.0, -2.0])
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.5]])

    def __init__(self, schedule):
        self.schedule = schedule

    def clean(self, noisy, step):
        """E[x_0 | x_t]."""
        abar = 1 - self.schedule.noise_share(step[None].long())[0]
        noise = (1 - abar) * torch.eye(2, dtype=torch.float64)
        cov, mean = self.cov.double(), self.mean.double()
        gain = abar.sqrt().double() * cov @ torch.linalg.inv(abar.double() * cov + noise)
        return (mean + (noisy.double() - abar.sqrt() * mean) @ gain.T).float()


def bell_samples(name, steps, prediction, n=20_000):
    """Of a network that predicts noise, velocity or what is clean without error."""
    schedule = NoiseSchedule(100, prediction)
    bell = Bell(schedule)

    def clean(noisy, step):
        each = step.expand(len(noisy)).long()
        known = bell.clean(noisy, step)
        share = schedule.noise_share(each)[:, None, None]
        noise = (noisy - (1 - share).sqrt() * known) / share.sqrt()
        return schedule.clean(schedule.target(known, noise, each), noisy, each)

    return Sampler(schedule, name, steps)(clean, (1, n, 2), streams(1), CPU)[0]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("name", "steps", "error"), [("ddpm", 100, 0.05), ("dpm", 10, 0.10), ("ddim", 50, 0.10)])
def test_a_gaussian_comes_back(name, steps, error, prediction):
    x = bell_samples(name, steps, prediction)
    torch.testing.assert_close(x.mean(0), Bell.mean, atol=0, rtol=error)
    torch.testing.assert_close(x.T.cov(), Bell.cov, atol=0, rtol=error)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler__noises_a_start_by_the_steps_left(name):
    """A trajectory to begin from gets as much noise as the steps that are left take away."""
    schedule, seen = NoiseSchedule(100), []
    clean = lambda noisy, step: (seen.append((noisy, int(step))), torch.zeros_like(noisy))[1]  # noqa: E731
    begin = torch.full((4000, 1, 1), 3.0)
    Sampler(schedule, name, 10)(clean, begin.shape, streams(4000), CPU, begin, 0.4)
    steps = [step for _, step in seen]
    assert steps == [39, 29, 19, 9]
    share = schedule.noise_share(torch.tensor([39]))
    noisy = seen[0][0].flatten()
    torch.testing.assert_close(noisy.mean(), 3 * (1 - share[0]).sqrt(), atol=0.05, rtol=0)
    torch.testing.assert_close(noisy.var(), share[0], atol=0.05, rtol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_adds_no_noise(name):
    schedule = NoiseSchedule(20)
    estimates = []

    def clean(noisy, step):
        estimates.append(noisy * 0.3)
        return estimates[-1]

    x = Sampler(schedule, name, 5)(clean, (2, 3, 4), streams(2), CPU)
    assert len(estimates) == 5
    torch.testing.assert_close(x, estimates[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler__makes_as_many_trained_steps_as_asked_for(name):
    """Rounding makes diffusers give one more for some numbers, before the first."""
    for steps in range(1, 101):
        if name != "ddim" or 100 % steps == 0:
            made = []
            clean = lambda noisy, step, made=made: (made.append(int(step)), noisy)[1]  # noqa: E731
            Sampler(NoiseSchedule(100), name, steps)(clean, (1, 2, 1), streams(1), CPU)
            assert len(made) == len(set(made)) == steps
            assert 0 <= min(made) <= max(made) == 99


def test_only_ddpm_draws_on_the_way():
    for name in SAMPLERS:
        used, untouched = streams(1), streams(1)
        Sampler(NoiseSchedule(20), name, 5)(lambda noisy, step: noisy, (1, 3, 4), used, CPU)
        untouched.normal(1, 3, 4)
        assert torch.equal(used.normal(1), untouched.normal(1)) == (name != "ddpm")


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_sampled_together_equal_rows_sampled_alone(name):
    sampler = Sampler(NoiseSchedule(20), name, 4)
    for each in (1, 2):
        generator = seeded()
        together = sampler(lambda x, k: 0.5 * x, (3 * each, 2, 2), streams(3), CPU)
        alone = [sampler(lambda x, k: 0.5 * x, (each, 2, 2), streams(1, generator), CPU) for _ in range(3)]
        torch.testing.assert_close(together, torch.cat(alone))
        assert len(together.unique(dim=0)) == 3 * each


@pytest.mark.parametrize(
    ("make", "option", "value", "said"),
    [
        (lambda: Sampler(NoiseSchedule(20), "ddpn", 5), "name", "ddpn", "Did you mean 'ddpm'?"),
        (lambda: Sampler(NoiseSchedule(20), "dpm", 21), "steps", 21, "at most 20"),
        (lambda: Sampler(NoiseSchedule(20), "dpm", 0), "steps", 0, "at least 1"),
        (lambda: Sampler(NoiseSchedule(20), "ddim", 6), "steps", 6, "divide 20"),
        (lambda: NoiseSchedule(20, "epsilom"), "prediction", "epsilom", "Did you mean 'epsilon'?"),
        (lambda: NoiseSchedule(1), "steps", 1, "at least 2"),
    ],
)
def test_mistaken_schedules_are_refused(make, option, value, said):
    with pytest.raises(OptionError) as refused:
        make()
    assert (refused.value.option, refused.value.value) == (option, value)
    assert said in str(refused.value)


# Networks


@pytest.mark.parametrize("net", range(3))
@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_denoisers_take_any_length(net, length):
    made = randomize(nets()[net](in_dim=5, out_dim=4, cond_dim=8))
    x, cond = torch.randn(3, length, 5), torch.randn(3, 8)
    out = made(x, cond)
    assert out.shape == (3, length, 4)
    assert not torch.allclose(out, made(x, cond + 1))
    torch.testing.assert_close(out[1:], made(x[1:], cond[1:]))


def test_a_unet_of_one_scale_sees_no_farther_than_its_kernels():
    made = randomize(nets()[0](in_dim=5, out_dim=4, cond_dim=8))
    x, cond = torch.randn(1, 64, 5), torch.randn(1, 8)
    changed = x.clone()
    changed[:, 0] += 1
    differs = (made(x, cond) != made(changed, cond)).any(-1)[0]
    assert differs[0]
    assert not differs[32:].any()


# Trajectories


def test_normalizer__treats_each_number_alone_above_a_floor():
    """Each number gets mean 0 and deviation 1, the floor stands in where none varies, and inverse undoes it."""
    norm = Normalizer(3)
    x = torch.randn(4000, 5, 3) * torch.tensor([1.0, 20.0, 0.0]) + torch.tensor([0.0, -7.0, 3.0])
    norm.follow(x, all_of(x))
    seen = norm(x).flatten(0, 1)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.std(0)[:2], torch.ones(2), atol=1e-2, rtol=0)
    assert norm.std()[2] == pytest.approx(norm.floor)
    torch.testing.assert_close(norm.inverse(norm(x)), x, atol=1e-4, rtol=1e-4)
    assert {"mean", "variance", "count"} <= norm.state_dict().keys()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (30_000.0, 1.0), (-5e4, 3.0)])
def test_normalizer__knows_deviations_of_numbers_far_from_zero(mean, std):
    """Which float32 would lose in the difference of two squares."""
    norm = Normalizer(1)
    x = mean + std * torch.randn(200, 64, 4, 1, dtype=torch.float64)
    for part in x.float():
        norm.follow(part, all_of(part))
    assert norm.std().item() == pytest.approx(x.std().item(), rel=0.02)
    assert norm.mean.item() == pytest.approx(x.mean().item(), abs=0.02 * std)


def test_normalizer__loads_weights_that_held_the_mean_of_squares():
    norm, x = Normalizer(3), torch.randn(8, 5, 3) + 2
    norm.follow(x, all_of(x))
    old = norm.state_dict()
    old["square"] = old.pop("variance") + old["mean"].square()
    again = Normalizer(3)
    again.load_state_dict(old)
    torch.testing.assert_close(again.std(), norm.std())


def test_rows_that_an_episodes_end_cuts_count_for_nothing():
    x, none = torch.randn(6, 4, 3), torch.zeros(6, dtype=torch.bool)
    whole = torch.tensor([True, False, True, True, False, False])
    cut, alone = Normalizer(3), Normalizer(3)
    for kept in (whole, none):
        cut.follow(torch.where(whole[:, None, None], x, 1e6), kept)
    alone.follow(x[whole], all_of(x[whole]))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("actions", [True, False])
def test_what_is_given_comes_out_bit_for_bit(name, actions):
    made = trajectories(actions=actions)
    x = torch.randn(100, 1, made.size) * 37 + 1000
    made.normalizer.follow(x, all_of(x))  # where denormalising rounds
    known = torch.randn(2, L, 3) * 31
    given = torch.zeros(2, L, dtype=torch.bool)
    given[:, 0] = given[1, 4] = True
    x = made.sample(known, given, {}, Sampler(made.schedule, name, 5), streams(2))
    assert torch.equal(x[..., :3][given], known[given])
    assert not torch.isclose(x[..., :3], known)[~given].any()


def test_networks_never_see_noise_on_what_is_given():
    made = trajectories()
    seen = []
    made.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(5, L, 5)
    given = torch.zeros(5, L, dtype=torch.bool)
    given[:, 0] = given[:, 3] = True
    made.loss(x, given, {})
    sampler = Sampler(made.schedule, "dpm", 4)
    made.sample(x[..., :3], given, {}, sampler, streams(5))
    clean = made.normalizer(x)
    assert len(seen) == 5
    for noisy in seen:
        assert torch.equal(noisy[..., :3][given], clean[..., :3][given])
        assert torch.equal(noisy[..., -1].bool(), given)
        assert not torch.isclose(noisy[..., 3:5], clean[..., 3:5]).all()  # actions are never given


def test_what_is_given_costs_nothing():
    made = trajectories()
    given = torch.ones(4, L, dtype=torch.bool)
    x = torch.randn(4, L, 5)
    made.loss(x, given, {}).sum().backward()
    weight = made.net.out[-1].weight.grad
    assert not weight[:3].any()
    assert weight[3:].any()


@pytest.mark.parametrize("feat", [1, 16, 400])
def test_actions_have_their_share_of_the_loss(feat):
    """However many numbers a latent has: where every number errs alike, as much of the loss as was asked for."""
    made = trajectories(feat=feat, action_share=0.3)
    x, given = torch.zeros(64, L, feat + 2), torch.zeros(64, L, dtype=torch.bool)
    wrong = lambda numbers: lambda *_: torch.ones(64, L, feat + 2) * numbers  # noqa: E731
    action = torch.arange(feat + 2) >= feat
    losses = []
    for numbers in (action, ~action, torch.ones_like(action)):
        made._output = wrong(numbers)
        losses.append(made.loss(x, given, {}).mean().item())
    assert losses == pytest.approx([0.3, 0.7, 1.0])


def test_actions_alone__see_no_latent_that_is_not_given():
    made = trajectories(latents=False)
    x, given = torch.randn(5, L, 5), torch.zeros(5, L, dtype=torch.bool)
    given[:, 0] = True
    seen = []
    made.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(1)
    loss = made.loss(x, given, {})
    other = x.clone()
    other[:, 1:, :3] += 7.0  # latents that are not given
    torch.manual_seed(1)
    assert torch.equal(made.loss(other, given, {}), loss)
    assert torch.equal(seen[0][:, 0, :3], made.normalizer(x)[:, 0, :3])
    assert not seen[0][:, 1:, :3].any()
    assert seen[0][..., 3:5].all()
    sampled = made.sample(x[..., :3], given, {}, Sampler(made.schedule, "dpm", 4), streams(5))
    assert torch.equal(sampled[:, 0, :3], x[:, 0, :3])
    torch.testing.assert_close(sampled[:, 1:, :3], made.normalizer.mean[:3].expand(5, L - 1, -1))
    assert sampled[..., 3:].std() > 0


def test_an_update_learns_each_trajectory_at_several_levels():
    made = trajectories(levels=3)
    steps, add = [], made.schedule.add_noise
    made.schedule.add_noise = lambda clean, noise, step: steps.append(step) or add(clean, noise, step)
    assert made.loss(torch.randn(40, L, 5), torch.zeros(40, L, dtype=torch.bool), {}).shape == (40, L)
    assert len(steps[0]) == 120
    first, *others = steps[0].unflatten(0, (3, 40))
    assert all((other != first).any() for other in others)


SIZES = (16, 400, pytest.param(2500, marks=pytest.mark.slow))


def driven(rows: int, feat: int, generator: torch.Generator) -> torch.Tensor:
    """Latents of ``feat`` numbers that show, with noise, three numbers which pink actions drive."""
    action = (0.6 * color_noise(torch.randn(rows, 16, 1, generator=generator), 1.0)).clamp(-1, 1)
    shown = torch.randn(3, feat, generator=torch.Generator().manual_seed(0)) / 1.7
    step = torch.tensor([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.0, 0.8]])
    states = [torch.randn(rows, 3, generator=generator)]
    for t in range(15):
        states.append(states[-1] @ step.T + action[:, t] * torch.tensor([0.2, 0.3, 0.5]))
    latents = torch.stack(states, 1) @ shown + 0.3 * torch.randn(rows, 16, feat, generator=generator)
    return torch.cat([latents, action], -1)


@pytest.mark.learns
@pytest.mark.parametrize("feat", SIZES)
@pytest.mark.parametrize("name", ["diffusion", "diffuser"])
def test_sampled_actions_keep_the_recorded_deviation(name, feat):
    """Within 20 %, as those two planners are configured, after a short training."""
    torch.manual_seed(0)
    options = config(f"planner={name}").planner
    known = {key: options.learner.trajectories[key] for key in ("latents", "actions", "action_share", "levels")}
    schedule = NoiseSchedule(100, options.learner.trajectories.schedule.prediction)
    made = TrajectoryModel(feat, 1, {}, schedule, partial(TemporalUNet, width=32), **known)
    optimizer, generator = torch.optim.Adam(made.parameters(), 4e-4), seeded()
    given = torch.zeros(64, 16, dtype=torch.bool)
    given[:, 0] = True
    for _ in range(150):
        x = driven(64, feat, generator)
        made.normalizer.follow(x, all_of(x))
        optimizer.zero_grad()
        made.loss(x, given, {}).mean().backward()
        optimizer.step()
    recorded = driven(64, feat, generator)
    sampler = Sampler(schedule, options.acting.sampler, options.acting.steps)
    with torch.no_grad():
        sampled = made.sample(recorded[..., :feat], given, {}, sampler, streams(64))
    assert sampled[..., feat:].std() / recorded[..., feat:].std() == pytest.approx(1.0, abs=0.2)


@pytest.mark.learns
@pytest.mark.parametrize("net", range(3))
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_it_learns_two_kinds_of_trajectories(net, prediction):
    torch.manual_seed(0)
    made = TrajectoryModel(1, 1, {}, NoiseSchedule(50, prediction), nets()[net], cond_dim=16)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    slope = torch.arange(8.0)
    for _ in range(400):
        sign = torch.randint(2, (64, 1)) * 2.0 - 1
        x = torch.stack([sign * slope, sign.expand(-1, 8)], dim=-1)  # goes up or down, by its action
        given = torch.zeros(64, 8, dtype=torch.bool)
        given[:, 0] = True
        made.normalizer.follow(x, all_of(x))
        optimizer.zero_grad()
        made.loss(x, given, {}).mean().backward()
        optimizer.step()
    made.eval()
    given = torch.zeros(200, 8, dtype=torch.bool)
    given[:, 0] = True
    with torch.no_grad():
        sampler = Sampler(made.schedule, "ddpm", 50)
        x = made.sample(torch.zeros(200, 8, 1), given, {}, sampler, streams(200))
    up = x[:, :, 1].mean(1) > 0
    assert 0.1 < up.float().mean() < 0.9
    error = (x[:, :, 0] - torch.where(up, 1.0, -1.0)[:, None] * slope).abs()
    assert error.median() < 0.5


# Guidance


def labeled():
    return trajectories(labels={"return": 1, "skill": 2})


def noisy_case(made):
    given = torch.zeros(4, L, dtype=torch.bool)
    given[:, 0] = True
    return torch.randn(4, L, made.size), torch.full((4,), 7), given


def test_guided__weight_one_is_the_conditional_estimate():
    """It is so exactly; a weight of 0 gives exactly the free estimate, and one of 2 goes as far beyond."""
    made = labeled()
    x, step, given = noisy_case(made)
    value = torch.randn(4, 1)
    conditional = made.clean(x, step, given, {"return": value})
    free = made.clean(x, step, given, {})
    assert not torch.equal(conditional, free)
    assert torch.equal(made.guided(x, step, given, {"return": Condition(value, 1.0)}), conditional)
    assert torch.equal(made.guided(x, step, given, {"return": Condition(value, 0.0)}), free)
    beside = {"skill": Condition(torch.eye(2)[[0, 1, 0, 1]], 0.0), "return": Condition(value, 1.0)}
    assert torch.equal(made.guided(x, step, given, beside), conditional)
    twice = made.guided(x, step, given, {"return": Condition(value, 2.0)})
    torch.testing.assert_close(twice, 2 * conditional - free)


def test_guidance_terms_add_up():
    made = labeled()
    x, step, given = noisy_case(made)
    one, other = Condition(torch.randn(4, 1), 1.5), Condition(torch.eye(2)[[0, 1, 0, 1]], -0.5)
    free = made.clean(x, step, given, {})
    expected = free
    for name, condition in (("return", one), ("skill", other)):
        expected = expected + condition.weight * (made.clean(x, step, given, {name: condition.value}) - free)
    torch.testing.assert_close(made.guided(x, step, given, {"return": one, "skill": other}), expected)


def test_hidden_labels_are_as_if_they_were_not_given():
    made = labeled()
    values = {"return": torch.randn(4, 1), "skill": torch.eye(2)[[0, 1, 0, 1]]}
    hide = {"return": torch.tensor([True, False, True, False]), "skill": torch.tensor([True, True, False, False])}
    together = made.labels(values, 4, hide)
    for row in range(4):
        kept = {name: value[row : row + 1] for name, value in values.items() if not hide[name][row]}
        torch.testing.assert_close(made.labels(kept, 1), together[row : row + 1])


def test_gradient_guidance_carries_the_normalizers_jacobian():
    made = trajectories()
    x = torch.randn(5000, 1, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 5.0])
    made.normalizer.follow(x, all_of(x))
    weights = torch.randn(L, 5)
    clean, step = torch.randn(4, L, 5), torch.tensor([3, 3, 9, 15])
    moved = made.apply_guidance(clean, step, lambda x: (x * weights).sum((1, 2)))
    share = made.schedule.noise_share(step)[:, None, None]
    torch.testing.assert_close(moved - clean, share * (weights * made.normalizer.std()).expand(4, -1, -1))


@pytest.mark.parametrize("name", ["ddpm", "dpm"])
def test_a_linear_guide_tilts_a_gaussian(name, monkeypatch):
    made = TrajectoryModel(1, 1, {}, NoiseSchedule(100), nets()[0], cond_dim=8)
    made.normalizer.mean += 5.0
    made.normalizer.variance += 3.0  # deviation 2
    unit = lambda noisy, step, given, labels: (1 - made.schedule.noise_share(step)).sqrt()[:, None, None] * noisy  # noqa: E731
    monkeypatch.setattr(made, "clean", unit)
    given = torch.zeros(1, 4000, dtype=torch.bool)
    sampler = Sampler(made.schedule, name, 100 if name == "ddpm" else 10)
    x = made.sample(torch.zeros(1, 4000, 1), given, {}, sampler, streams(1), lambda x: 0.5 * x.sum((1, 2)))
    # exp(b x) times a normal of deviation s has its mean moved by b s^2
    torch.testing.assert_close(x.mean((0, 1)), torch.full((2,), 5.0 + 0.5 * 4), atol=0.1, rtol=0)
    torch.testing.assert_close(x.std((0, 1)), torch.full((2,), 2.0), atol=0.1, rtol=0)


# The planner


def acted(world, made, n=2, explore=False, seed=0, steps=1, memory=None):
    generator, state = seeded(seed), randomize_state(world, n)
    memory = made.initial(n) if memory is None else memory
    for step in range(steps):
        reset = torch.full((n,), step == 0)
        action, memory = made.act(world, state, memory, reset, explore, generator)
    return action, memory, state


def randomize_state(world, n):
    rows = with_reset(batch(n, observations=world.encoder.observations))
    return world.observe(rows, world.initial(n))[1].map(torch.detach)


def test_the_plan_begins_in_the_present_latent_exactly():
    world, made = planner()
    _, memory, state = acted(world, made)
    assert torch.equal(memory["latents"][:, 0], state.feat)


def test_plan_is_followed_for_some_actions_and_made_anew():
    """With replan_every=2 the second action is the kept plan's next one, and the third is a new plan's first."""
    world, made = planner()
    action, memory, state = acted(world, made)
    assert torch.equal(action, memory["actions"][:, 0])
    kept = memory["actions"]
    second, memory = made.act(world, state, memory, torch.zeros(2, dtype=torch.bool), False, seeded(5))
    assert torch.equal(second, kept[:, 1])
    assert memory["age"].tolist() == [2, 2]
    before = memory
    third, memory = made.act(world, state, memory, torch.zeros(2, dtype=torch.bool), False, seeded(5))
    assert memory["age"].tolist() == [1, 1]
    assert not torch.equal(third, before["actions"][:, 1])


def test_rest_of_a_plan_is_renoised_and_takes_part_again():
    """It is noised only in part, once for each kept candidate; a row without an earlier plan gives these no value."""
    world, made = planner("planner.acting.candidates=1", "planner.acting.warm_candidates=3")
    _, memory, state = acted(world, made)
    begun = []
    inner = made.learner.trajectories.sample
    made.learner.trajectories.sample = lambda *args, **kw: begun.append(args[6:8]) or inner(*args, **kw)
    memory = made.shift_plan(memory)
    sampled, _ = made.sample_plans(Decision.begin(world, state, False, seeded()), memory)
    assert [begin is None for begin, _ in begun] == [True, False]
    begin, share = begun[1]
    assert share == made.acting.renoise_fraction
    rest = torch.cat([memory["latents"], memory["mean"]], dim=-1)
    assert torch.equal(begin, rest.repeat_interleave(3, dim=0))
    assert sampled.values.shape == (2, 4)
    memory["planned"][0] = False
    sampled, _ = made.sample_plans(Decision.begin(world, state, False, seeded()), memory)
    assert torch.isinf(sampled.values[0, 1:]).all()
    assert sampled.values[1].isfinite().all()


def test_weights_given_go_before_their_own():
    asked = "{_target_: planners.diffusion.conditioning.ReturnLabel, _partial_: true, weight: 1.3}"
    label = f"+planner.learner.labels.return={asked}"
    world, made = planner(label, "planner.guidance.reward.weight=0.2")
    assert made.terms({}) == {"reward": 0.2}
    assert made.terms({"reward": 2.0, "return": 5.0}) == {"reward": 2.0}
    assert made.terms({"reward": 0.0}) == {}
    state, memory = randomize_state(world, 2), made.initial(2)
    plans = [
        made.sample_plans(Decision.begin(world, state, False, seeded()), memory, weights=weights)[0].actions
        for weights in (None, {"return": 1.3, "reward": 0.2}, {"return": 4.0}, {"reward": 4.0})
    ]
    assert torch.equal(plans[0], plans[1])
    assert not torch.allclose(plans[0], plans[2])
    assert not torch.allclose(plans[0], plans[3])


def test_score__is_discounted_rewards_and_the_value_at_the_end():
    """Rewards on the way and the value have weights of their own, and the gradient is that of the formula."""
    critic = ["planner.learner.critic={units: 16, layers: 1}"]
    world, made = planner("planner.guidance.reward.weight=0.2", "planner.guidance.value.weight=3.0", *critic)
    latents = torch.randn(4, L, world.dynamics.feat_dim)
    actions = 2 * torch.rand(4, L, ACTION) - 1
    x = torch.cat([latents, actions], dim=-1).requires_grad_()
    found = made._score(world, None, {})(x)
    gamma, feat = made.learner.gamma, x[..., : latents.shape[-1]]
    reward = world.heads["reward"](feat, actions[:, :-1])
    expected = 3.0 * gamma ** (L - 1) * made.learner.critic(feat[:, -1])
    for step in range(L - 1):
        expected = expected + 0.2 * gamma**step * reward[:, step]
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), [x], retain_graph=True)
    by_hand = torch.autograd.grad(expected.sum(), [x])[0]
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-4 * by_hand.abs().max().item())


def test_normalizer__follows_only_what_is_learned_from():
    """A loss in evaluation mode leaves its statistics as they are, and one in training mode moves them."""
    world, made = planner()
    rows = with_reset(batch(4, 2 * L, observations=STATE))
    rollout, _, _ = world.observe(rows, world.initial(4))
    normalizer = made.learner.trajectories.normalizer
    before = {key: value.clone() for key, value in normalizer.state_dict().items()}
    made.eval()
    made.loss(world, rollout, rows)
    assert all(torch.equal(value, before[key]) for key, value in normalizer.state_dict().items())
    made.train()
    made.loss(world, rollout, rows)
    assert normalizer.count > before["count"]
    assert not torch.equal(normalizer.mean, before["mean"])
    assert not torch.equal(normalizer.variance, before["variance"])


def test_what_reads_pairs_of_latents_needs_two():
    for words in (
        ["planner.learner.forward_model={units: 16, layers: 1}"],
        ["planner.learner.inverse={units: 16, layers: 1}", "planner.learner.trajectories.actions=false"],
    ):
        with pytest.raises(OptionError) as refused:
            planner(
                *words, "planner.plan_horizon=1", "planner.acting.replan_every=1", "planner.acting.warm_candidates=0"
            )
        assert (refused.value.option, refused.value.value) == ("planner.plan_horizon", 1)


def test_bound__moves_back_only_what_lies_beyond_it():
    """Steps within the bound get no gradient, and a number that the decoded state lacks is refused."""
    torch.manual_seed(0)
    world, made = planner("planner.guidance.within.weight=1.0", "planner.guidance.within.high=0.0")
    feat = torch.randn(5, L, world.dynamics.feat_dim, requires_grad=True)
    term, x = made.guidance["within"], world.decode(feat)["state"][..., 0]
    action = torch.zeros(5, L, ACTION)
    score = term.score(GuidedPlans(world, made.learner, feat, action))
    torch.testing.assert_close(score, -x.clamp(min=0).square().sum(1))
    (gradient,) = torch.autograd.grad(score.sum(), [feat])
    over = x > 0
    assert over.any()
    assert not over.all()
    assert (gradient.abs().sum(-1) > 0).equal(over)
    moved = world.decode(feat + 1e-3 * gradient / gradient.abs().amax())["state"][..., 0]
    assert (moved < x)[over].all()
    term.number = 99
    with pytest.raises(OptionError) as refused:
        term.score(GuidedPlans(world, made.learner, feat, action))
    assert (refused.value.option, refused.value.value) == ("number", 99)


def to_goals(*words):
    """A planner to goals, on a backbone that sees them."""
    torch.manual_seed(0)
    world = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    size = (
        f"planner.plan_horizon={L}",
        "denoiser.width=16",
        "planner.acting.steps=2",
        "planner.acting.min_goal_step=2",
    )
    return world, build_planner(config(*size, *words).planner, ACTION, False, world.dynamics.feature_spec)


def goal_batch(n, length):
    rows = with_reset(batch(n, length, observations={key: WITH_GOAL[key] for key in ("pixels", "state")}))
    rows["is_first"][:] = False
    return rows | {f"goal_{key}": rows[key].roll(1, 0) for key in ("pixels", "state")}


def test_what_is_given_while_acting_was_given_while_learning():
    words = ("planner.acting.replan_every=1", "planner.acting.candidates=3", "planner.scorer.consistency_weight=1.0")
    world, made = to_goals("planner=diffusion", *JOINT, *words)  # plans of all ends are followed now and then
    masks = []
    made.learner.trajectories.net.register_forward_pre_hook(lambda module, args: masks.append(args[0][..., -1]))
    rows = goal_batch(64, L + 1)
    rollout, _, _ = world.observe(rows, world.initial(64))
    for _ in range(4):
        made.loss(world, rollout, rows)
    trained = {tuple(mask.tolist()) for mask in torch.cat(masks)}
    masks.clear()
    state, memory = world.observe(goal_batch(2, 3), world.initial(2))[1], made.initial(2)
    for step in range(2 * L):  # until the goal of a plan has come and gone
        _, memory = made.act(world, state, memory, torch.full((2,), step == 0), False, seeded(step))
    asked = {tuple(mask.tolist()) for mask in torch.cat(masks)}
    assert len(asked) > 3
    assert asked <= trained


def test_numbers_that_are_none_are_an_error():
    world, made = planner()
    with torch.no_grad():
        next(made.learner.trajectories.net.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        require_actions(acted(world, made)[0])


@pytest.mark.parametrize("name", ["diffusion_goals", "cfgrl_goals"])
def test_environments_with_goals_are_planned_together_as_alone(name):
    length = 1 if name == "cfgrl_goals" else L
    world, made = to_goals(f"planner={name}", f"planner.plan_horizon={length}")
    randomize(made)
    state = world.observe(goal_batch(3, 4), world.initial(3))[1].map(torch.detach)
    run = lambda state, n, generator: made.act(  # noqa: E731
        world, state, made.initial(n), torch.ones(n, dtype=torch.bool), True, generator
    )[0]
    together, generator = run(state, 3, seeded()), seeded()
    assert torch.equal(run(state, 3, seeded()), together)
    assert not torch.equal(run(state, 3, seeded(1)), together)
    for row in range(3):
        alone = run(world.dynamics.select(state, slice(row, row + 1)), 1, generator)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


@pytest.mark.learns
def test_a_critic_learns_what_the_recorded_policy_earns():
    torch.manual_seed(0)
    world, made = planner("planner.learner.critic={units: 32, layers: 1}")
    learner = made.learner
    learner.critic = Critic(world.dynamics.feat_dim, 32, 1, slow_rate=0.1)
    rows = with_reset(batch(32, 12, observations=STATE))
    rows["is_first"][:] = rows["is_last"][:] = rows["is_terminal"][:] = False
    place = torch.arange(12) % 4  # episodes of four rows: rewards 0, 1, 2 on the way, and then a real end
    rows["is_first"][:], rows["is_terminal"][:] = place == 0, place == 3
    rows["is_last"], rows["reward"][:] = rows["is_terminal"].clone(), torch.tensor([9.0, 0, 1, 2])[place]
    feat = torch.eye(4)[place].repeat(32, 1, 1)
    feat = torch.cat([feat, torch.zeros(32, 12, world.dynamics.feat_dim - 4)], -1)
    rollout = replace(world.observe(rows, world.initial(32))[0], post=feat)
    optimizer = torch.optim.Adam(learner.critic.parameters(), 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        learner._critic_loss(rollout, rows).mean().backward()
        optimizer.step()
        learner.after_step()
    gamma = learner.gamma
    expected = torch.tensor([gamma + 2 * gamma**2, 1 + 2 * gamma, 2.0])
    torch.testing.assert_close(learner.critic(feat[0, :3]), expected, atol=0.1, rtol=0.03)
    better = learner._advantage(feat, rows)[0, :3]
    torch.testing.assert_close(better, torch.zeros(3), atol=0.1, rtol=0)  # one policy: no better than itself
    loss = learner._critic_loss(rollout, rows)
    assert not loss[:, 3::4].any()  # what is recorded next is another episode's
    assert loss[:, :3].all()


def test_environments_planned_together_equal_those_planned_alone():
    world, made = planner()
    world.dynamics.sample = False
    state = randomize_state(world, 3)
    together, _ = made.act(world, state, made.initial(3), torch.ones(3, dtype=torch.bool), True, seeded())
    generator = seeded()
    for row in range(3):
        one = world.dynamics.select(state, slice(row, row + 1))
        alone, _ = made.act(world, one, made.initial(1), torch.ones(1, dtype=torch.bool), True, generator)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


def test_the_world_model_chooses_among_candidates():
    world, made = planner(
        "planner.acting.candidates=5", "planner.acting.warm_candidates=0", "planner.scorer.consistency_weight=0.0"
    )
    world.dynamics.sample = False
    state = randomize_state(world, 2)
    memory = made.initial(2)
    sampled, _ = made.sample_plans(Decision.begin(world, state, False, seeded()), memory)
    forked = world.dynamics.fork(state, 5)
    imagined = world.imagine(forked, sampled.actions.flatten(0, 1), L)
    gammas = 0.99 ** torch.arange(L)
    alive = torch.cat([torch.ones(10, 1), imagined.cont[:, :-1].cumprod(1)], dim=1)
    expected = (imagined.reward * gammas * alive).sum(1).unflatten(0, (2, 5))
    torch.testing.assert_close(sampled.values, expected, atol=1e-4, rtol=1e-4)
    action, memory = made.act(world, state, memory, torch.ones(2, dtype=torch.bool), False, seeded())
    best = expected.argmax(1)
    torch.testing.assert_close(action, sampled.actions[torch.arange(2), best, 0])


@pytest.mark.parametrize("name", ["diffusion", "diffuser", "decision_diffuser", "cfgrl"])
@pytest.mark.parametrize("discrete", [False, True])
def test_every_setting_learns_and_acts(name, discrete):
    cfg = config(f"planner={name}", "denoiser.width=16", "planner.acting.steps=3")
    cfg.planner.plan_horizon = min(cfg.planner.plan_horizon, L)
    world = model("latent=gaussian", observations=STATE)
    made = build_planner(cfg.planner, ACTION, discrete, world.dynamics.feature_spec)
    rows = with_reset(batch(observations=STATE, length=10))
    if discrete:
        rows["action"] = torch.eye(ACTION)[torch.randint(ACTION, rows["action"].shape[:2])]
    made.check(world.dynamics, 10)
    rollout, _, _ = world.observe(rows, world.initial(len(rows["action"])))
    losses = made.loss(world, rollout, rows)
    assert losses.keys() == cfg.planner.learner.loss_scales.keys()
    torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
    without = [name for name, p in made.named_parameters() if p.grad is None and p.requires_grad]
    assert not without
    made.eval().after_step()
    action, memory, _ = acted(world, made, explore=True, steps=3)
    assert action.shape == (2, ACTION)
    assert action.abs().max() <= 1
    if discrete:
        assert torch.equal(action.sum(-1), torch.ones(2))
    considered = made.inspect(world, randomize_state(world, 2), memory, seeded())
    assert considered.candidates.shape[:2] == considered.values.shape


def test_losses_leave_the_world_model_alone():
    world, made = planner()
    rows = with_reset(batch(observations=STATE, length=10))
    rollout, _, _ = world.observe(rows, world.initial(len(rows["action"])))
    made.loss(world, rollout, rows)["denoise"].sum().backward()
    assert all(p.grad is None for p in world.parameters())


def test_windows_over_a_reset_teach_nothing():
    world, made = planner()
    rows = with_reset(batch(observations=STATE, length=L + 1))
    rows["is_first"][:] = False
    rows["is_first"][0, 3] = True
    rollout, _, _ = world.observe(rows, world.initial(len(rows["action"])))
    loss = made.loss(world, rollout, rows)["denoise"]
    assert not loss[0].any()
    assert loss[1].any()


def test_windows__pair_each_latent_with_what_followed(monkeypatch):
    """A latent's action and reward are the next row's; skill and advantage are those of the window's first row."""
    label = (
        "+planner.learner.labels.optimal={_target_: planners.diffusion.conditioning.OptimalityLabel, _partial_: true}"
    )
    world, made = planner("planner.learner.critic={units: 8, layers: 1}", label)
    rows = with_reset(batch(3, 2 * L + 4, observations=STATE))
    rows["is_first"][:] = False
    rows["skill"] = torch.arange(3 * (2 * L + 4)).unflatten(0, (3, -1))
    rollout, _, _ = world.observe(rows, world.initial(3))
    for begin in (0, 3):
        monkeypatch.setattr(torch, "randint", lambda *_, begin=begin, **__: torch.tensor([begin]))
        window, _ = made.learner._windows(world, rollout, rows, L)
        assert window.feat.shape[:2] == (6, L)
        for place, first in enumerate((begin, begin + L)):  # two of them in each row, end to end
            for t in range(L):
                assert torch.equal(window.feat[place::2, t], rollout.post[:, first + t])
                assert torch.equal(window.action[place::2, t], rows["action"][:, first + t + 1])
                assert torch.equal(window.reward[place::2, t], rows["reward"][:, first + t + 1])
            assert torch.equal(window.skill[place::2], rows["skill"][:, first])
            assert torch.equal(window.advantage[place::2], made.learner._advantage(rollout.post, rows)[:, first])
    monkeypatch.undo()
    assert window.valid.all()


def test_every_offset__is_a_trajectory_of_its_own():
    world, made = planner("planner.learner.every_offset=true")
    rows = with_reset(batch(3, L + 4, observations=STATE))
    rows["is_first"][:] = False
    rollout, _, _ = world.observe(rows, world.initial(3))
    window, _ = made.learner._windows(world, rollout, rows, L)
    assert window.feat.shape[:2] == (12, L)
    for first in range(4):
        assert torch.equal(window.feat[first::4], rollout.post[:, first : first + L])
        assert torch.equal(window.action[first::4], rows["action"][:, first + 1 : first + L + 1])
    assert made.cold_start_fraction(L + 4) == 1 / 4


def test_plans_are_sampled_from_an_average_of_the_denoiser():
    world, made = planner("planner.learner.ema_decay=0.9")
    rows = with_reset(batch(2, L + 2, observations=STATE))
    rollout, _, _ = world.observe(rows, world.initial(2))
    learner, fresh = made.learner, planner()[1].learner
    assert fresh.sampled is fresh.trajectories
    for _ in range(30):
        made.train().loss(world, rollout, rows)
        with torch.no_grad():
            for p in learner.trajectories.parameters():
                p.add_(1.0)
        made.after_step()
    pairs = zip(learner.trajectories.parameters(), learner.sampled.parameters(), strict=True)
    behind = [(new - old).mean() for new, old in pairs]
    assert all(2.0 < float(x) < 9.0 for x in behind)  # nine of them, once the average is no longer young
    assert torch.equal(learner.sampled.normalizer.mean, learner.trajectories.normalizer.mean)
    assert not any(p.requires_grad for p in learner.sampled.parameters())
    asked = []
    learner.sampled.net.register_forward_hook(lambda *_: asked.append(True))
    acted(world, made)
    assert asked


def test_hindsight_goals__stand_where_they_were_reached():
    """Only that step is given, with the latent of its frame seen as a goal, where still numbers are zero."""
    torch.manual_seed(0)
    world = build_model(config("dynamics=implicit", "++env.goal_zero_indices=[2,3]"), WITH_GOAL, ACTION)
    cfg = config(
        "planner=diffusion", "denoiser.width=16", f"planner.plan_horizon={L}", "planner.learner.goal_share=1.0"
    )
    made = build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec).learner
    rows = with_reset(batch(16, L + 1, observations=WITH_GOAL))
    rows |= {f"goal_{key}": rows[key] for key in ("pixels", "state")}
    rows["is_first"][:] = False
    rollout, _, _ = world.observe(rows, world.initial(16))
    window, ends = made._windows(world, rollout, rows, L)
    assert set(ends.tolist()) == set(range(1, L))
    given = torch.zeros(16, L, dtype=torch.bool)
    x = made.concat(window.feat, window.action)
    seen, given = made._with_goal(x, given, window.goal, ends)
    at_rest = rows["state"] * torch.tensor([1.0, 1.0, 0.0, 0.0])
    for row, end in enumerate(ends.tolist()):
        assert given[row].nonzero().flatten().tolist() == [end]
        frame = {"pixels": rows["pixels"][row : row + 1, end], "state": at_rest[row : row + 1, end]}
        goal = world.dynamics.encode_goal(world.encoder.encoder(frame))[0]
        torch.testing.assert_close(seen[row, end, : len(goal)], goal)
        assert torch.equal(seen[row, end, len(goal) :], x[row, end, len(goal) :])
        others = torch.arange(L) != end
        assert torch.equal(seen[row, others], x[row, others])


def test_labels__say_what_was_earned_and_if_it_was_better():
    """Returns are in deviations of whole windows seen in training; any advantage not below zero is optimal."""
    reward = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]).repeat(50, 1)
    flags = torch.ones(100, dtype=torch.bool)
    window = Window(
        torch.zeros(100, 3, 1), torch.zeros(100, 3, 1), reward, torch.arange(-49.5, 50.5), None, None, flags
    )
    label = ReturnLabel()
    torch.testing.assert_close(
        label.encode_data(window)[:2, 0], torch.tensor([1.0, -1.0])
    )  # deviations of 1.5 from 1.5
    torch.testing.assert_close(label.encode_target(2, None), torch.ones(2, 1))  # the 95th percentile of the data
    torch.testing.assert_close(ReturnLabel(value=0.0).encode_target(1, None), torch.zeros(1, 1))
    seen = label.moments.clone()
    label.encode_data(replace(window, reward=reward + 5, valid=~flags))  # every row cut off by an episode's end
    label.eval().encode_data(replace(window, reward=reward + 5))
    assert torch.equal(label.moments, seen)
    cut = ReturnLabel()
    cut.encode_data(
        replace(window, reward=torch.where(flags.cumsum(0) > 50, 1e6, reward.T).T, valid=flags.cumsum(0) <= 50)
    )
    torch.testing.assert_close(cut.moments, seen)
    assert OptimalityLabel().encode_data(window).flatten().tolist() == [0.0] * 50 + [1.0] * 50
    assert (
        OptimalityLabel().encode_data(replace(window, advantage=torch.zeros(100))).all()
    )  # no worse than usual, which is all there is


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (500, 0.5), (-3e4, 1), (1e5, 10), (1e6, 10)])
def test_labels__returns_far_from_zero_are_normalised_as_well(mean, std):
    """What float64 says of all returns together, which float32 would lose in the difference of two squares."""
    random, seen, label = np.random.default_rng(0), [], ReturnLabel(rate=1e-6)
    for _ in range(40):
        total = torch.from_numpy(random.normal(mean, std, 256)).float()
        seen.append(total.double().numpy())
        still = torch.zeros(256, 1, 1)
        label.encode_data(Window(still, still, total[:, None], None, None, None, torch.ones(256, dtype=torch.bool)))
    told = label.eval()._normal(torch.tensor([mean - std, mean, mean + std]))
    right = (np.array([mean - std, mean, mean + std]) - np.mean(seen)) / np.std(seen)
    np.testing.assert_allclose(told, right, atol=0.02)
    np.testing.assert_allclose(label.encode_target(1, None), 1.645, atol=0.1)


@pytest.mark.parametrize("kept", [0, 2])
def test_goal__nears_with_every_step_and_is_far_again_after(kept):
    """The planned end moves up by the steps taken, and once it has come, the best end is chosen anew."""
    torch.manual_seed(0)
    world = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    acting = (
        f"planner.acting.{word}" for word in ("steps=2", "replan_every=1", "candidates=1", f"warm_candidates={kept}")
    )
    cfg = config("planner=diffusion", "denoiser.width=16", f"planner.plan_horizon={L}", *acting)
    made = build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec)
    made.scorer.values = lambda model, learner, plans, *_: torch.arange(float(plans.ends.shape[1])).expand(2, -1)
    state, memory, ends = world.initial(2), made.initial(2), []
    for step in range(L + 1):
        _, memory = made.act(world, state, memory, torch.full((2,), step == 0), False, seeded())
        ends.append(memory["end"].tolist())
    assert ends == [[end, end] for end in (5, 4, 3, 2, 1, 5, 4)]


def test_a_batch_without_a_whole_window_changes_nothing():
    world, made = planner(
        "+planner.learner.labels.return={_target_: planners.diffusion.conditioning.ReturnLabel, _partial_: true}"
    )
    rows = with_reset(batch(observations=STATE, length=L + 1))
    rows["is_first"][:, 3] = True
    before = {key: value.clone() for key, value in made.state_dict().items()}
    rollout, _, _ = world.observe(rows, world.initial(len(rows["action"])))
    assert not made.train().loss(world, rollout, rows)["denoise"].any()
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_goals_that_were_never_given_are_not_given():
    torch.manual_seed(0)
    world = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    cfg = config(
        "planner=diffusion", *JOINT, "planner.learner.goal_share=0.0", "denoiser.width=16", "planner.acting.steps=2"
    )
    size = world.dynamics.goal_dim
    made = build_planner(cfg.planner, ACTION, False, FeatureSpec(size, size))
    masks = []
    made.learner.trajectories.net.register_forward_pre_hook(lambda module, args: masks.append(args[0][..., -1]))
    made.act(world, world.initial(2), made.initial(2), torch.ones(2, dtype=torch.bool), False, seeded())
    assert all((mask[:, 0] == 1).all() and not mask[:, 1:].any() for mask in masks)
    made.learner.goal_share = 0.5
    made.act(world, world.initial(2), made.initial(2), torch.ones(2, dtype=torch.bool), False, seeded())
    assert (masks[-1].sum(1) == 2).all()


def test_actions_can_be_asked_to_reach_a_goal():
    torch.manual_seed(0)
    world = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    cfg = config("planner=cfgrl_goals", "denoiser.width=16", "planner.acting.steps=2")
    made = randomize(build_planner(cfg.planner, ACTION, False, world.dynamics.feature_spec))
    state, goal_dim = world.initial(2), world.dynamics.goal_dim
    feat = torch.randn_like(state.feat)
    near, far = (State(feat + move * (torch.arange(feat.shape[1]) >= feat.shape[1] - goal_dim), state.memory)
                 for move in (0.0, 1.0))  # fmt: skip
    one, other, weaker = (
        made.sample_plans(Decision.begin(world, at, False, seeded()), made.initial(2), weights=weights)[0].actions
        for at, weights in ((near, None), (far, None), (far, {"goal": 0.0}))
    )
    assert not torch.allclose(one, other)
    assert not torch.allclose(weaker, other)
    rows = with_reset(batch(observations=WITH_GOAL, length=6))
    rows |= {f"goal_{key}": rows[key].roll(1, 1) for key in ("pixels", "state")}
    rollout, _, _ = world.observe(rows, world.initial(len(rows["action"])))
    assert made.loss(world, rollout, rows).keys() == {"denoise"}


OPTIMAL = "{_target_: planners.diffusion.conditioning.OptimalityLabel, _partial_: true}"


@pytest.mark.parametrize(
    ("words", "option", "said"),
    [
        (["+planner.acting.candidats=3"], "acting.candidats", "Did you mean 'candidates'"),
        (["planner.acting.candidates=0"], "acting.candidates", "at least 1"),
        (["planner.acting.renoise_fraction=0.0"], "acting.renoise_fraction", "in (0, 1]"),
        (["planner.acting.replan_every=7"], "acting.replan_every", "at most plan_horizon=6"),
        (["planner.acting.steps=21"], "acting.steps", "at most 20"),
        (
            ["planner.acting.replan_every=4", "planner.plan_horizon=4"],
            "acting.replan_every",
            "or set acting.warm_candidates=0",
        ),
        (["planner.learner.trajectories.actions=false"], "learner.inverse", "must have its units"),
        (["planner.guidance.value.weight=1.0"], "guidance.value.weight", "give learner.critic its units"),
        (["planner.guidance.within.weight=1.0"], "guidance.within.weight", "needs a bound"),
        (
            ["planner.guidance.within.low=1.0", "planner.guidance.within.high=0.0"],
            "guidance.within.low",
            "must be at most high=0",
        ),
        (
            [
                "+planner.learner.labels.reward="
                "{_target_: planners.diffusion.conditioning.ReturnLabel, _partial_: true}",
            ],
            "guidance",
            "is a label's name too",
        ),
        (
            ["planner.learner.trajectories.latents=false", "planner.guidance.reward.weight=1.0"],
            "guidance.reward.weight",
            "set learner.trajectories.latents=true",
        ),
        (
            ["planner.learner.trajectories.latents=false", "planner.scorer.consistency_weight=0.5"],
            "scorer.consistency_weight",
            "set learner.trajectories.latents=true",
        ),
        (
            ["planner.learner.trajectories.latents=false", "planner.learner.trajectories.actions=false"],
            "learner.trajectories.latents",
            "leaves nothing to denoise",
        ),
        (["planner.learner.trajectories.action_share=1.0"], "learner.trajectories.action_share", "in (0, 1)"),
        (["denoiser.kernel=4"], "learner.trajectories.net.kernel", "that is odd"),
        (["+planner.learner.labels.optimal=" + OPTIMAL], "learner.critic", "must have its units"),
    ],
)
def test_mistaken_options_are_refused(words, option, said):
    with pytest.raises(OptionError) as refused:
        planner(*words)
    assert refused.value.option == f"planner.{option}"
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["decision_diffuser", "cfgrl"])
def test_labels_of_earnings_are_refused_where_goals_are_shown(name):
    """What was earned depends on the goal that was shown; the message names planner=cfgrl_goals instead."""
    world = build_model(config("dynamics=implicit"), WITH_GOAL, ACTION)
    with pytest.raises(OptionError, match=r"planner=cfgrl_goals") as refused:
        build_planner(config(f"planner={name}").planner, ACTION, False, world.dynamics.feature_spec)
    assert refused.value.option == "planner.learner.labels"


@pytest.mark.parametrize("discrete", [False, True])
def test_inverse_dynamics_find_the_action_between_two_latents(discrete):
    torch.manual_seed(0)
    world = model("latent=gaussian", observations=STATE)
    cfg = config("planner=decision_diffuser", "denoiser.width=16", "planner.learner.inverse={units: 64, layers: 2}")
    made = build_planner(cfg.planner, ACTION, discrete, world.dynamics.feature_spec).learner.train()
    weights = torch.randn(ACTION, world.dynamics.feat_dim)
    optimizer = torch.optim.Adam(made.inverse_model.parameters(), 3e-3)
    for _ in range(300):
        action = 2 * torch.rand(64, 5, ACTION) - 1
        if discrete:
            action = torch.eye(ACTION)[action.argmax(-1)]
        begin = 5 * torch.randn(64, 1, len(weights[0]))
        feat = torch.cat([begin, begin + (action[:, :-1] @ weights).cumsum(1)], dim=1)
        everything = torch.ones(64, dtype=torch.bool)
        made.trajectories.normalizer.follow(feat, everything)
        window = Window(feat, action, feat[..., 0], None, None, None, everything)
        optimizer.zero_grad()
        made._inverse_loss(window).mean().backward()
        optimizer.step()
    found = made.actions(feat)
    assert found.shape == action.shape
    assert torch.equal(found[:, -1], found[:, -2])
    if discrete:
        assert (found.argmax(-1) == action.argmax(-1))[:, :-1].float().mean() > 0.95
    else:
        assert (found - action)[:, :-1].square().mean().sqrt() < 0.15


def test_windows_shorter_than_a_plan_are_refused():
    world, made = planner()
    with pytest.raises(OptionError) as refused:
        made.check(world.dynamics, L)
    assert (refused.value.option, refused.value.value) == ("plan_horizon", L)
