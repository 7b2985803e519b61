"""Every stage of TD-MPC2 computes what its authors' code computes: numbers and equations in README.md.

In float64 at 1e-9 of an array's largest entry, in float32 at 2e-5.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from golden import Golden, assert_golden
from golden_tdmpc2 import ACTIONS, HORIZON, batch, learner_table, loaded, model_table
from torch import Tensor, nn

from dynamics.base import Rollout
from planners.base import Decision
from planners.guided import Guided
from planners.learning.critics import ValueScale
from planners.learning.learner import discount_of
from planners.streams import RowStreams
from worldmodels.config.compose import load_config
from worldmodels.factory import construct
from worldmodels.model import WorldModel
from worldmodels.nets.augment import RandomShift
from worldmodels.nets.categorical import SimNormLatent
from worldmodels.nets.distributions import SymlogTwoHot
from worldmodels.nets.valid_convolutions import ValidEncoder
from worldmodels.training.losses import FixedScales
from worldmodels.training.module import WorldModelModule
from worldmodels.training.optim import Tensors

pytestmark = pytest.mark.usefixtures("precision")
ALIKE = functools.partial(assert_golden, single=2e-5)
SCALES = {"consistency": 20.0, "reward": 0.1, "cont": 1.0, "q": 0.1, "policy": 1.0}


@functools.cache
def arrays() -> Golden:
    return Golden("tdmpc2")


@pytest.fixture
def golden() -> Golden:
    return arrays()


def rows(x: Tensor) -> Tensor:
    """Golden sequences are [time, batch, ...]; the last axis of scalars goes."""
    x = x.transpose(0, 1)
    return x.squeeze(-1) if x.ndim == 3 and x.shape[-1] == 1 else x


class Given(RowStreams):
    """Random numbers that a test hands over, one tensor a draw, for all rows at once."""

    def __init__(self, *draws: Tensor) -> None:
        self.draws = list(draws)

    def __len__(self) -> int:
        return 1

    def normal(self, *shape: int) -> Tensor:
        drawn = self.draws.pop(0)
        assert drawn.shape == shape, (tuple(drawn.shape), shape)
        return drawn[None]

    def select(self, rows: slice) -> Given:
        return self


def grounded(golden: Golden) -> tuple[Tensor, Tensor]:
    """Latents of all steps but the last, and the actions taken in them, [H, B, ...]."""
    return golden["encoder/latent"][:-1], golden["in/action"]


def given_q(planner: Guided, monkeypatch: pytest.MonkeyPatch, *members: Tensor) -> None:
    """Draw these members of the ensemble, one set a time."""
    left = list(members)
    monkeypatch.setattr(planner.learner.q, "some", lambda count: left.pop(0))


# Networks and distributions


def test_encoder(golden):
    model, _ = loaded(golden)
    embed = model.encoder({"state": golden["in/obs"]})
    ALIKE(model.dynamics.encode(embed), golden["encoder/before_simnorm"])
    ALIKE(model.dynamics._normed(model.dynamics.encode(embed)), golden["encoder/latent"])


def test_simplices(golden):
    ALIKE(SimNormLatent(4, 8).simplices(golden["simnorm/x"]), golden["simnorm/y"])


def test_next_latent_reward_and_q(golden):
    model, planner = loaded(golden)
    latent, action = grounded(golden)
    ALIKE(model.dynamics._next(latent, action), golden["dynamics/next_latent"])
    reward = model.heads["reward"]
    logits = reward.net(torch.cat([latent, action], dim=-1))
    ALIKE(logits, golden["reward/logits"])
    ALIKE(reward.two_hot.decode(logits), golden["reward/mean"].squeeze(-1))
    for name, ensemble in (("q", planner.learner.q), ("q_target", planner.learner.target)):
        logits = ensemble(latent, action)
        ALIKE(logits, golden[f"{name}/logits"])
        ALIKE(ensemble.two_hot.decode(logits), golden[f"{name}/mean"].squeeze(-1))


def test_two_hot(golden):
    two_hot = SymlogTwoHot()
    ALIKE(two_hot.bins, golden["twohot/symlog_bins"])
    ALIKE(two_hot.encode(golden["twohot/target"]), golden["twohot/weights"])
    ALIKE(two_hot.decode(golden["twohot/logits"]), golden["twohot/mean"].squeeze(-1))
    ALIKE(two_hot.loss(golden["twohot/logits"], golden["twohot/target"]), golden["twohot/loss"].squeeze(-1))
    assert two_hot.decode(torch.zeros(101)) == 0


def test_policy(golden):
    """Its entropy is only logged there, with 1e-6 added to the slope of tanh. What the loss uses has no slope."""
    _, planner = loaded(golden)
    actions = planner.learner.policy(golden["encoder/latent"])
    raw = actions.draw(golden["in/pi_noise"])
    ALIKE(actions.action(raw), golden["policy/action"])
    ALIKE(actions.mode(), golden["policy/mean"])
    ALIKE(actions.log_std, golden["policy/log_std"])
    slope = 1 - actions.action(raw).square()
    softened = actions.entropy(raw) + ((slope + 1e-6).log() - slope.log()).sum(-1)
    ALIKE(softened, golden["policy/entropy"].squeeze(-1), double=2e-8)
    ALIKE(ACTIONS * actions.raw_entropy(raw), golden["policy/scaled_entropy"].squeeze(-1), double=2e-8)


def test_the_scale_of_values(golden):
    scale = ValueScale()
    for values, expected in zip(golden["running_scale/x"], golden["running_scale/value"], strict=True):
        ALIKE(scale(values), expected)


def test_discounts(golden):
    lengths = golden["discount/episode_length"].tolist()
    ALIKE(torch.tensor([discount_of(length) for length in lengths]), golden["discount/table"])
    ALIKE(torch.tensor(discount_of(500)), golden["discount/value"])


def test_pixels(golden):
    shift = RandomShift(3)
    corner = golden["pixels/shift_xy"].T.flip(0)[:, :, None]  # row, then column
    moved = shift.moved(golden["pixels/image"], corner)
    ALIKE(moved.to(torch.get_default_dtype()), golden["pixels/shifted"])
    encoder = ValidEncoder((3, 64, 64), 2)
    with torch.no_grad():
        for i, layer in enumerate(layer for layer in encoder if isinstance(layer, nn.Conv2d)):
            layer.weight.copy_(golden[f"w/enc_img/conv{i}/weight"])
            layer.bias.copy_(golden[f"w/enc_img/conv{i}/bias"])
    latent = SimNormLatent(4, 8).simplices(encoder(golden["pixels/shifted"] / 255 - 0.5))
    ALIKE(latent, golden["pixels/latent"])


# An update


def updated(golden: Golden, episodic: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> SimpleNamespace:
    """Take both steps of an update as training does, by the preset's optimiser and with the golden draws."""
    model, planner = loaded(golden, episodic)
    cfg = load_config(["experiment=tdmpc2"]).optimizer
    parts = {name: dict(options) for name, options in cfg.param_groups.items()}
    parts |= {"planner.learner.actor": {"eps": 1e-5}, "model.dynamics.encode": {"lr": cfg.encoder_lr}}
    adam = functools.partial(torch.optim.Adam, lr=cfg.lr, eps=cfg.build.eps)
    trained = WorldModelModule(
        model, planner, adam, construct(cfg.clip), FixedScales(SCALES), parts, 0, 0.0, tmp_path / "bad"
    )
    planner.learner.q_scale.spread.copy_(golden["in/scale_before"].squeeze())
    given_q(planner, monkeypatch, golden["in/td_q_index"], golden["in/pi_q_index"])
    noise = [golden["in/td_noise"].transpose(0, 1), golden["in/pi_noise"].transpose(0, 1)]
    monkeypatch.setattr(torch, "randn_like", lambda like: noise.pop(0))
    logged = {}
    monkeypatch.setattr(trained, "log", lambda name, value: logged.update({name: value}))
    monkeypatch.setattr(trained, "log_dict", logged.update)
    optimizer = trained.configure_optimizers()
    trained.training_step(batch(golden), 0)["loss"].backward()
    named = (*model.named_parameters(), *planner.learner.named_parameters())
    gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
    trained.configure_gradient_clipping(optimizer)
    optimizer.step()
    clip, norms = trained.clip, []

    def clipped(tensors: Tensors) -> None:
        norms.append(norm_of([p.grad for parts in tensors for p in parts]))
        clip(tensors)

    trained.clip = clipped
    later = trained.second_step(optimizer, trained._rollout, batch(golden), nullcontext)
    logged |= {f"loss/{name}": mean for name, mean in later.items()}
    trained.after_step()
    return SimpleNamespace(model=model, planner=planner, logged=logged, gradients=gradients, policy_norm=norms[0])


def norm_of(tensors: list[Tensor]) -> Tensor:
    """Norm of all together."""
    return torch.nn.utils.get_total_norm(tensors)


def weights(table: dict, module: nn.Module) -> dict[str, list[tuple]]:
    """Our parameters, with how to change theirs into them, by the golden name."""
    found: dict[str, list[tuple]] = {}
    for name, source in table.items():
        found.setdefault(source.name, []).append((dict(module.named_parameters())[name], source.change, name))
    return found


@pytest.mark.parametrize("kind", ["update", "update_episodic"])
def test_losses_of_an_update(golden, kind, monkeypatch, tmp_path):
    episodic = kind == "update_episodic"
    logged = updated(golden, episodic, monkeypatch, tmp_path).logged
    names = {"consistency": "consistency", "reward": "reward", "value": "q"}
    if episodic:
        names["termination"] = "cont"
    for theirs, ours in names.items():
        ALIKE(logged[f"loss/{ours}"], golden[f"{kind}/{theirs}_loss"])
    ALIKE(logged["loss/total"], golden[f"{kind}/total_loss"])
    ALIKE(logged["loss/policy"], golden[f"{kind}/pi_loss"])
    ALIKE(logged["grad/norm"], golden[f"{kind}/grad_norm_before_clip"])


@pytest.mark.parametrize("kind", ["update", "update_episodic"])
def test_the_policys_step_of_an_update(golden, kind, monkeypatch, tmp_path):
    found = updated(golden, kind == "update_episodic", monkeypatch, tmp_path)
    ALIKE(found.policy_norm, golden[f"{kind}/pi_grad_norm_before_clip"])
    ALIKE(found.planner.learner.q_scale.spread, golden[f"{kind}/scale_after"].squeeze())


def test_gradients_of_an_update(golden, monkeypatch, tmp_path):
    found = updated(golden, False, monkeypatch, tmp_path)
    tables = model_table(False) | learner_table()
    squares: dict[str, Tensor] = {}
    for ours, source in tables.items():
        if ours in found.gradients:
            squares[source.name] = squares.get(source.name, 0) + found.gradients[ours].square().sum()
            if f"update/grad/{source.name}" in golden.arrays:
                ALIKE(found.gradients[ours], source.change(golden[f"update/grad/{source.name}"]))
    names = [str(name) for name in golden.arrays["update/grad_names"]]
    assert squares.keys() == set(names)
    for name, norm in zip(names, golden["update/grad_norms"], strict=True):
        ALIKE(squares[name].sqrt(), norm)


def test_weights_after_an_update(golden, monkeypatch, tmp_path):
    found = updated(golden, False, monkeypatch, tmp_path)
    owned = weights(model_table(False), found.model) | weights(learner_table(), found.planner.learner)
    for name in golden.arrays:
        if name.startswith("update/weights_after/"):
            for parameter, change, _ in owned[name.removeprefix("update/weights_after/")]:
                ALIKE(parameter, change(golden[name]))


def test_targets_follow(golden):
    _, planner = loaded(golden)
    planner.after_step()
    owned = weights(learner_table(), planner.learner)
    for name in golden.arrays:
        if name.startswith("soft_update/"):
            for parameter, change, _ in owned[name.removeprefix("soft_update/")]:
                ALIKE(parameter, change(golden[name]))


def test_the_policys_loss_on_grounded_latents(golden, monkeypatch):
    _, planner = loaded(golden)
    learner, latent = planner.learner, golden["encoder/latent"].transpose(0, 1)
    learner.q_scale.spread.copy_(golden["in/scale_before"].squeeze())
    given_q(planner, monkeypatch, golden["in/pi_q_index"])
    monkeypatch.setattr(torch, "randn_like", lambda like: golden["in/pi_noise"].transpose(0, 1))
    rho = golden["policy_loss/rho"].expand(4, -1)
    loss = learner._policy_loss(Rollout(latent, latent, rho, {}, {}), batch(golden)).mean()
    ALIKE(loss, golden["policy_loss/loss"])
    ALIKE(learner.q_scale.spread, golden["policy_loss/scale_after"].squeeze())
    loss.backward()
    ALIKE(norm_of([p.grad for p in learner.actor.parameters()]), golden["policy_loss/grad_norm_before_clip"])
    for name, source in learner_table().items():
        if name.startswith("actor."):
            gradient = dict(learner.named_parameters())[name].grad
            ALIKE(gradient, source.change(golden[f"policy_loss/grad/{source.name}"]))


def test_targets_of_q(golden, monkeypatch):
    _, planner = loaded(golden)
    learner, post = planner.learner, golden["encoder/latent"].transpose(0, 1)
    after = post[:, 1:]
    action = learner.policy(after).choose(golden["in/td_noise"].transpose(0, 1))
    ALIKE(action, golden["td/action"].transpose(0, 1))
    every = learner.target.two_hot.decode(learner.target(after, action))
    ALIKE(every, golden["td/q_target_mean_all"].squeeze(-1).transpose(1, 2))
    given_q(planner, monkeypatch, golden["in/td_q_index"])
    monkeypatch.setattr(torch, "randn_like", lambda like: golden["in/td_noise"].transpose(0, 1))
    seen = []
    two_hot = learner.q.two_hot
    loss = two_hot.loss
    monkeypatch.setattr(two_hot, "loss", lambda logits, x: seen.append(x) or loss(logits, x))
    learner._q_loss(Rollout(post, post, torch.ones(4, 4), {}, {}), batch(golden))
    ALIKE(seen[0][0], rows(golden["td/target"]))


# A plan


@pytest.mark.parametrize("name", ["plan_t0", "plan_warm", "plan_t0_explore"])
def test_a_whole_search(golden, name, monkeypatch):
    """Their candidates begin with the policy's, ours end with them. Their weights are divided by 1 + 1e-9."""
    model, planner = loaded(golden)
    search, state = planner.search, model.dynamics._state(first_latent(golden, model))
    iterations = []
    elites = search.elites
    monkeypatch.setattr(search, "elites", lambda c, v: iterations.append((c, v)) or elites(c, v))
    explore = name.endswith("explore")
    samples = torch.cat([golden["in/plan_sample_noise"][i].transpose(0, 1) for i in range(6)])
    draws = [golden["in/plan_pi_noise"].transpose(0, 1), samples, *(value_draw(golden, i) for i in range(6))]
    draws.append(normal_of(golden["in/plan_pick_exponential"]))
    if explore:
        noise = torch.zeros(1, HORIZON, ACTIONS)
        noise[0, 0] = golden["in/plan_explore_noise"]
        draws.append(noise)
    memory = search.initial(1)
    if name == "plan_warm":
        memory["mean"] = golden["in/plan_prev_mean"][None]
    decision = Decision(model, state, explore, None, Given(*draws))
    action, memory = search._act(decision, memory)
    near = functools.partial(ALIKE, double=5e-8)
    near(action[0], golden[f"{name}/action"])
    if explore:
        return
    near(memory["mean"][0], golden[f"{name}/prev_mean_after"])
    for i, (candidates, values) in enumerate(iterations):
        near(torch.cat([values[0, 20:], values[0, :20]]), golden[f"{name}/value"][i].squeeze(-1))
        if i == 0:
            both = torch.cat([candidates[0, 20:], candidates[0, :20]])
            near(both, golden[f"{name}/actions_first_iteration"].transpose(0, 1))
            near(candidates[0, 20:], golden[f"{name}/pi_actions"].transpose(0, 1))
        found, best = elites(candidates, values)
        near(search.weigh(best)[0], golden[f"{name}/score"][i].squeeze(-1))
        places = [(int(place) + 4) % 24 for place in values[0].topk(6).indices]
        assert places == golden[f"{name}/elite_idxs"][i].tolist()
        fitted = search.family.fit(found, search.weigh(best))
        near(fitted.mean[0], golden[f"{name}/mean"][i])
        near(fitted.spread[0], golden[f"{name}/std"][i])
    near(found[0], golden[f"{name}/elite_actions_last"].transpose(0, 1))


@pytest.mark.parametrize("kind", ["plain", "episodic"])
def test_the_value_of_candidates(golden, kind):
    model, planner = loaded(golden, episodic=kind == "episodic")
    state = model.dynamics._state(first_latent(golden, model))
    actions = golden["plan_t0/actions_first_iteration"].transpose(0, 1)[None]
    draws = [golden["in/plan_pi_noise"].transpose(0, 1), value_draw(golden, 0, last=False)]
    decision = Decision(model, state, False, None, Given(*draws))
    guide = planner.search.ask_guide(decision)
    values = planner.search.evaluate(decision, model.dynamics.fork(state, 24), actions, guide.terminal_value)
    ALIKE(values[0], golden[f"value/{kind}"].squeeze(-1))


def first_latent(golden: Golden, model: WorldModel) -> Tensor:
    """The latent that is planned from."""
    return model.dynamics._normed(model.dynamics.encode(model.encoder({"state": golden["in/plan_obs"][None]})))


def value_draw(golden: Golden, iteration: int, last: bool = True) -> Tensor:
    """What a value draws: members by the largest of five numbers, and noise. The policy's candidates are last here."""
    chosen = torch.zeros(5)
    chosen[golden["in/plan_value_q_index"][iteration]] = 1.0
    noise = golden["in/plan_value_pi_noise"][iteration]
    return torch.cat([chosen, (torch.cat([noise[4:], noise[:4]]) if last else noise).flatten()])


def normal_of(exponential: Tensor) -> Tensor:
    """The normal numbers that stand for exponential ones."""
    return torch.special.ndtri(torch.exp(-exponential))
