"""One training step: named and scaled losses, groups, clipping, the guard, and what precedes a window."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import lightning
import pytest
import torch
from model_cases import ACTION, BOTH, STATE, batch, config, model
from torch import nn

from dynamics.base import State
from planners.base import Planner
from worldmodels.common.batch import split_context
from worldmodels.common.columns import MEMORY_PREFIX
from worldmodels.common.precision import lightning_precision
from worldmodels.errors import OptionError, UserError
from worldmodels.factory import loss_scales, prefix_rows
from worldmodels.heads.base import Head
from worldmodels.nets.layers import BlockLinear, tensors_of
from worldmodels.testing.sequences import assert_close
from worldmodels.training.losses import FixedScales, LossBalance
from worldmodels.training.module import WorldModelModule
from worldmodels.training.optim import AdaptiveClip, NormClip


class Learner(Planner):
    """A planner with one parameter and any loss of it."""

    def __init__(self, loss=None):
        super().__init__(ACTION, False)
        self.w = nn.Parameter(torch.zeros(()))
        self._loss = loss
        self.steps = 0

    def initial(self, n):
        return {}

    def _act(self, decision, memory):
        raise NotImplementedError

    def loss(self, model, rollout, batch):
        return {} if self._loss is None else {"actor": self._loss(self.w).expand(rollout.post.shape[:2])}

    def after_step(self):
        self.steps += 1


def module(
    tmp_path,
    *overrides,
    observations=STATE,
    planner=None,
    clip=None,
    scales=None,
    balance=None,
    heads=None,
    rates=None,
    optimizer=None,
    average=0.0,
    warmup=0,
):
    cfg, world = config(*overrides), model(*overrides, observations=observations)
    world.heads.update(heads or {})
    made = WorldModelModule(
        world,
        planner or Learner(),
        optimizer or partial(torch.optim.SGD, lr=1.0),
        clip or NormClip(100.0),
        balance or FixedScales(scales or loss_scales(cfg, observations)),
        rates or {},
        prefix_rows(cfg, world.dynamics),
        average,
        tmp_path / "bad_batch.pt",
        warmup,
    )
    made.logged = {}
    made.log = lambda name, value, **_: made.logged.__setitem__(name, float(value))
    made.log_dict = lambda values, **_: [made.log(name, value) for name, value in values.items()]
    return made


def learned(trained):
    """Parameters but for the averages."""
    return [p for p in trained.parameters() if p.requires_grad]


def rows(**kwargs):
    return batch(observations=STATE, **kwargs)


# Losses


def test_the_loss_is_the_scaled_sum_of_means(tmp_path):
    scales = {"dyn": 1.0, "rep": 0.1, "state": 2.0, "reward": 0.5, "cont": 3.0}
    trained = module(tmp_path, scales=scales)
    total = trained.training_step(rows(), 0)["loss"]
    losses, _ = trained.losses(rows())
    torch.testing.assert_close(total, sum(scales[name] * loss.mean() for name, loss in losses.items()))
    assert total.item() == pytest.approx(trained.logged["loss/total"])
    for name, loss in losses.items():
        assert trained.logged[f"loss/{name}"] == pytest.approx(loss.mean().item(), rel=1e-5)
    assert {name for name in trained.logged if name.startswith("latent/")} == {
        "latent/post_entropy",
        "latent/prior_entropy",
        "latent/kl",
    }


@pytest.mark.parametrize("change", [{"actor": 1.0}, {"reward": None}])
def test_losses_and_scales_name_the_same(tmp_path, change):
    scales = loss_scales(config(), STATE) | change
    trained = module(tmp_path, scales={name: scale for name, scale in scales.items() if scale is not None})
    with pytest.raises(ValueError, match="must name the same"):
        trained.training_step(rows(), 0)


def test_scales_of_what_is_not_observed_are_left_out():
    assert loss_scales(config(), STATE).keys() == {"dyn", "rep", "state", "reward", "cont"}
    assert loss_scales(config(), BOTH).keys() == {"dyn", "rep", "state", "pixels", "reward", "cont"}


def test_a_planner_adds_its_own_losses(tmp_path):
    scales = loss_scales(config(), STATE) | {"actor": 2.0}
    trained = module(tmp_path, planner=Learner(lambda w: w + 3), scales=scales)
    trained.training_step(rows(), 0)["loss"].backward()
    assert trained.logged["loss/actor"] == 3.0
    assert trained.planner.w.grad.item() == pytest.approx(2.0)
    trained.after_step()
    assert trained.planner.steps == 1


# Averaged weights


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_acting__is_a_moving_average_short_while_young(tmp_path, share):
    """The share that is kept grows with the number of updates up to the one that was asked for."""
    trained = module(tmp_path, average=share)
    _, acting = trained.acting
    seen = []
    for newest in (1.0, 2.0, 3.0, 4.0):
        trained.planner.w.data.fill_(newest)
        trained.after_step()
        seen.append(acting.w.item())
    by_hand = [1.0]
    for n, newest in enumerate((2.0, 3.0, 4.0), start=1):
        kept = min(share, (1 + n) / (10 + n))
        by_hand.append(kept * by_hand[-1] + (1 - kept) * newest)
    assert seen == pytest.approx(by_hand)


def test_averages_receive_no_gradient_and_are_not_optimized(tmp_path):
    trained = module(tmp_path, average=0.9)
    trained.training_step(rows(), 0)["loss"].backward()
    model, planner = trained.acting
    assert all(p.grad is None for part in (model, planner) for p in part.parameters())
    optimized = {id(p) for group in trained.configure_optimizers().param_groups for p in group["params"]}
    assert optimized == {id(p) for part in (trained.model, trained.planner) for p in part.parameters()}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    with pytest.raises(OptionError) as caught:
        module(tmp_path, average=share)
    assert caught.value.option == "ema_decay"


@pytest.mark.parametrize("context", ["none", "burn_in", "latent"])
def test_a_step_does_not_change_its_batch(tmp_path, context):
    trained = module(tmp_path, f"data.context={context}", "data.burn_in=2", observations=BOTH)
    given = batch(length=6) | stored(trained, 2, 6)
    kept = {key: value.clone() for key, value in given.items()}
    trained.training_step(given, 0)["loss"].backward()
    assert given.keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in given.items())


# Context


def stored(trained, size, length, seed=3):
    """Memory columns as the collector stores them, made up."""
    generator = torch.Generator().manual_seed(seed)
    memory = trained.model.initial(size).memory
    return {
        MEMORY_PREFIX + key: torch.rand(size, length, *value.shape[1:], generator=generator)
        for key, value in memory.items()
    }


def filtered(trained, given, reset):
    """Every state along the rows, one frame at a time."""
    state, states = trained.model.initial(len(reset)), []
    with torch.no_grad():
        for t in range(reset.shape[1]):
            obs = {"state": given["state"][:, t]}
            state = trained.model.obs_step(obs, given["action"][:, t], reset[:, t], state)
            states.append(state)
    return states


def feats(states):
    return torch.stack([state.feat for state in states], dim=1)


def test_without_context_the_first_step_counts_as_a_reset(tmp_path):
    trained, given = module(tmp_path), rows()
    assert not given["is_first"][:, 0].any()
    losses, rollout = trained.losses(given)
    reset = given["is_first"].clone()
    reset[:, 0] = True
    assert_close(rollout.post, feats(filtered(trained, given, reset)))
    led_in = {**given, "action": given["action"].clone()}
    led_in["action"][:, 0] += 1
    assert torch.equal(trained.losses(led_in)[1].post, rollout.post)
    assert all(loss.shape == (2, 5) for loss in losses.values())


def test_burning_in_filters_the_prefix_without_loss_or_gradient(tmp_path):
    trained, given = module(tmp_path, "data.context=burn_in", "data.burn_in=3"), rows(length=8)
    assert trained.prefix == 3
    given["is_first"].zero_()
    given["is_first"][0, 5] = given["is_first"][1, 3] = True
    losses, rollout = trained.losses(given)
    reset = given["is_first"].clone()
    reset[:, 0] = True
    assert_close(rollout.post, feats(filtered(trained, given, reset))[:, 3:])
    assert all(loss.shape == (2, 5) for loss in losses.values())
    start = trained.start(trained.model, *split_context(given, 3))
    assert not start.feat.requires_grad
    assert not any(value.requires_grad for value in start.memory.values())
    cold = module(tmp_path).losses({key: value[:, 3:] for key, value in given.items()})[1]
    assert not torch.allclose(rollout.post[0, 0], cold.post[0, 0])
    assert_close(rollout.post[1], cold.post[1])  # a new episode begins with the window, so that context adds nothing


def test_a_stored_latent_continues_as_if_nothing_was_cut(tmp_path):
    trained, stream = module(tmp_path, "data.context=latent"), rows(length=9)
    assert trained.prefix == 1
    reset = stream["is_first"].clone()
    reset[:, 0] = True
    states = filtered(trained, stream, reset)
    for key in states[0].memory:
        stream[MEMORY_PREFIX + key] = torch.stack([state.memory[key] for state in states], dim=1)
    for cut in (0, 2, 3, 6):
        losses, rollout = trained.losses({key: value[:, cut:] for key, value in stream.items()})
        assert_close(rollout.post, feats(states)[:, cut + 1 :])
        assert all(loss.shape == (2, 8 - cut) for loss in losses.values())
    start = trained.start(trained.model, *split_context(stream, 1))
    assert isinstance(start, State)
    assert all(torch.equal(value, states[0].memory[key]) for key, value in start.memory.items())


# Groups and clipping


def test_a_part_with_its_own_learning_rate_is_a_group(tmp_path):
    trained = module(tmp_path, rates={"model.encoder": {"lr": 0.5}, "planner": {"lr": 0.25}})
    groups = {group["lr"]: group["params"] for group in trained.configure_optimizers().param_groups}
    assert groups.keys() == {1.0, 0.5, 0.25}
    assert {id(p) for p in groups[0.5]} == {id(p) for p in trained.model.encoder.parameters()}
    assert [id(p) for p in groups[0.25]] == [id(trained.planner.w)]
    every = [id(p) for group in groups.values() for p in group]
    assert sorted(every) == sorted(id(p) for p in learned(trained))
    with pytest.raises(UserError, match=r"'model\.encodr'.*model\.encoder"):
        module(tmp_path, rates={"model.encodr": {"lr": 0.1}}).configure_optimizers()


def fit(trained, tmp_path, steps=1, precision="fp32"):
    """Updates by the real trainer on one batch."""
    trainer = lightning.Trainer(
        max_steps=steps,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=lightning_precision(precision),
        default_root_dir=tmp_path,
    )
    trainer.fit(trained, torch.utils.data.DataLoader([rows()] * steps, batch_size=None))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_clipped_between_backward_and_update(tmp_path, precision):
    trained = module(tmp_path, clip=NormClip(0.01))
    before = [p.detach().clone() for p in learned(trained)]
    fit(trained, tmp_path, precision=precision)
    moved = torch.stack([(p.detach() - q).norm() for p, q in zip(learned(trained), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-2)
    assert trained.logged["grad/norm"] > 0.1
    assert trained.logged["grad/norm_after_clip"] == pytest.approx(0.01, rel=1e-3)
    assert trained.planner.steps == 1


def test_a_probe_is_clipped_apart_whatever_its_loss_weighs(tmp_path):
    """Else a decoder that shapes nothing would scale down the steps of what it watches."""
    moved = []
    for weight in (1.0, 1000.0):
        torch.manual_seed(0)
        trained = module(tmp_path, "objective=probe", clip=NormClip(0.01))
        trained.balance.scales["state"] = weight
        before = [p.detach().clone() for p in trained.model.dynamics.parameters()]
        torch.manual_seed(1)
        fit(trained, tmp_path)
        moved.append([p.detach() - q for p, q in zip(trained.model.dynamics.parameters(), before, strict=True)])
        assert trained.logged["grad/norm_after_clip"] == pytest.approx(0.01 * 2**0.5, rel=1e-2)
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


class Watching(Head):
    """A head beside the latent, with as large a gradient as it is told."""

    trains_latent = False

    def __init__(self, size):
        super().__init__()
        self.w, self.size = nn.Parameter(torch.zeros(())), size

    def forward(self, feat, action):
        return self.w.expand(feat[..., 1:, 0].shape)

    def loss(self, rollout, batch):
        return self.size * self.w.expand(batch["reset"].shape)


class Learned(LossBalance):
    """Scales with one learned factor in front."""

    def __init__(self, scales, size):
        super().__init__(scales)
        self.log_weight, self.size = nn.Parameter(torch.zeros(())), size

    def weigh(self, means):
        total = torch.stack([self.scales[name] * mean for name, mean in means.items()]).sum()
        return total + self.size * self.log_weight, {"weight": self.log_weight.detach().exp()}


@pytest.mark.parametrize("kind", ["head", "balance"])
def test_what_shapes_no_latent_is_clipped_apart(tmp_path, kind):
    moved = []
    for size in (1.0, 1000.0):
        torch.manual_seed(0)
        scales = loss_scales(config(), STATE) | ({"watch": 1.0} if kind == "head" else {})
        balance = Learned(scales, size) if kind == "balance" else FixedScales(scales)
        heads = {"watch": Watching(size)} if kind == "head" else {}
        trained = module(tmp_path, clip=NormClip(0.01), balance=balance, heads=heads)
        before = [p.detach().clone() for p in trained.model.dynamics.parameters()]
        torch.manual_seed(1)
        fit(trained, tmp_path)
        moved.append([p.detach() - q for p, q in zip(trained.model.dynamics.parameters(), before, strict=True)])
        apart = trained.model.heads["watch"].w if kind == "head" else trained.balance.log_weight
        assert apart.item() == pytest.approx(-0.01, rel=1e-2)
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


def test_a_balance_is_logged_and_has_a_rate_of_its_own(tmp_path):
    balance = Learned(loss_scales(config(), STATE), 1.0)
    trained = module(tmp_path, balance=balance, rates={"balance": {"lr": 0.5}})
    trained.training_step(rows(), 0)
    assert trained.logged["balance/weight"] == 1.0
    groups = {group["lr"]: group["params"] for group in trained.configure_optimizers().param_groups}
    assert [id(p) for p in groups[0.5]] == [id(balance.log_weight)]


def test_small_gradients_are_left_alone(tmp_path):
    trained = module(tmp_path, clip=NormClip(1e6), optimizer=partial(torch.optim.SGD, lr=1e-6))
    fit(trained, tmp_path)
    assert trained.logged["grad/norm"] == trained.logged["grad/norm_after_clip"]


def test_adaptive_clipping_bounds_each_tensor_by_its_weights():
    """A spike in one unit is cut no further than an even gradient of the same norm."""
    layer = nn.Linear(64, 64)
    allowed = 0.3 * layer.weight.norm()
    for gradient in (torch.zeros(64, 64), torch.full((64, 64), 7.83 / 64)):
        if not gradient.any():
            gradient[0] = 7.83 / 8
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros(64)
        AdaptiveClip(0.3)(tensors_of(layer))
        torch.testing.assert_close(layer.weight.grad.norm(), allowed.detach())
        torch.testing.assert_close(layer.weight.grad / layer.weight.grad.norm(), gradient / gradient.norm())
    layer.weight.grad = torch.full((64, 64), 1e-6)
    AdaptiveClip(0.3)([[layer.weight]])
    assert torch.equal(layer.weight.grad, torch.full((64, 64), 1e-6))


def test_parts_of_one_published_tensor_are_clipped_as_one():
    """The blocks of a GRU read their own and shared inputs with one matrix, which is kept in two parts."""
    inner = BlockLinear(8, 12, 4, 6)
    assert [len(parts) for parts in tensors_of(nn.Sequential(nn.Linear(2, 2), inner))] == [1, 1, 2, 1]
    for parameter in inner.parameters():
        parameter.grad = torch.randn_like(parameter)
    whole = torch.cat([inner.weight.flatten(), inner.shared.flatten()])
    before = torch.cat([inner.weight.grad.flatten(), inner.shared.grad.flatten()])
    AdaptiveClip(0.3)(tensors_of(inner))
    after = torch.cat([inner.weight.grad.flatten(), inner.shared.grad.flatten()])
    torch.testing.assert_close(after, (before * 0.3 * whole.norm() / before.norm()).detach())


def test_rates_rise_over_the_warm_up(tmp_path):
    trained, rates = module(tmp_path, optimizer=partial(torch.optim.SGD, lr=1e-3), warmup=4), []
    trained.after_step = lambda: rates.append(trained.optimizers().param_groups[0]["lr"])
    fit(trained, tmp_path, steps=6)
    assert rates == pytest.approx([0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_updates_learn(tmp_path):
    trained = module(tmp_path, clip=NormClip(100.0), optimizer=partial(torch.optim.Adam, lr=3e-3))
    totals = []
    trained.log = lambda name, value, **_: totals.append(float(value)) if name == "loss/total" else None
    fit(trained, tmp_path, steps=30)
    assert totals[-1] < 0.8 * totals[0]
    assert sum(b < a for a, b in pairwise(totals)) > 20


# The guard


def test_a_loss_that_is_not_finite_is_named_and_its_batch_kept(tmp_path):
    trained, given = module(tmp_path), rows()
    given["reward"][1, 2] = float("nan")
    with pytest.raises(UserError, match=r"^loss reward is not finite; .*bad_batch\.pt.*trainer\.precision=fp32"):
        trained.training_step(given, 0)
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert kept.keys() == given.keys()
    assert kept["reward"].isnan().nonzero().tolist() == [[1, 2]]
    assert torch.equal(kept["state"], given["state"])


def test_everything_is_named_that_a_bad_observation_spoils(tmp_path):
    trained, given = module(tmp_path), rows()
    given["state"][0, 0, 0] = float("inf")
    with pytest.raises(UserError, match=r"^loss .*state") as raised:
        trained.training_step(given, 0)
    assert "reward" in str(raised.value)


def test_non_finite_gradient_is_named_and_nothing_updated(tmp_path):
    """The error names the parameter, the batch is kept in a file, and no weight changes."""
    scales = loss_scales(config(), STATE) | {"actor": 1.0}
    trained = module(tmp_path, planner=Learner(torch.sqrt), scales=scales)
    before = [p.detach().clone() for p in learned(trained)]
    with pytest.raises(UserError, match=r"^the gradient of planner\.w is not finite"):
        fit(trained, tmp_path)
    assert (tmp_path / "bad_batch.pt").exists()
    assert all(torch.equal(p, q) for p, q in zip(learned(trained), before, strict=True))
