"""What is measured of a model: one that is the simulator itself errs nowhere and ranks everything rightly."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from planner_cases import seeded
from true_models import TrueModel

from dynamics.base import Rollout, State
from planners.random import Random
from worldmodels.agent import Agent
from worldmodels.config import load_config
from worldmodels.envs.toy import LinearGaussian
from worldmodels.envs.vector import VectorEnv, held_out_envs
from worldmodels.evaluation.baselines import Constant
from worldmodels.evaluation.model_metrics import common_episodes, mixed_actions, prediction_errors, ranking
from worldmodels.evaluation.rollout import play, record_baseline
from worldmodels.runs.loading import Run

pytestmark = pytest.mark.process


class Simulator(TrueModel):
    """The toy environment of this law, seen whole; ``bias`` is added to each next state, ``sign`` turns rewards."""

    feat_dim, action_dim, discrete, device = 2, 1, False, torch.device("cpu")
    law = (LinearGaussian.A, LinearGaussian.B, LinearGaussian.Q, LinearGaussian.R)
    a, b, q, r = (torch.tensor(x, dtype=torch.float32) for x in law)

    def __init__(self, bias=0.0, sign=1.0):
        super().__init__()
        self.bias, self.sign = bias, sign

    def step(self, feat, action):
        feat = feat @ self.a.T + action @ self.b.T + self.bias
        cost = ((feat @ self.q) * feat).sum(1) + self.r[0, 0] * action.square().sum(1)
        return feat, -self.sign * cost, torch.ones(len(feat))

    def initial(self, n):
        return State(torch.zeros(n, 2), {"x": torch.zeros(n, 2)})

    def obs_step(self, rows, action, is_first, state, generator):
        return State(rows["state"], {"x": rows["state"]})

    def observe(self, batch, state):
        feat = batch["state"]
        return Rollout(feat, feat, torch.ones(feat.shape[:2]), {}, {}), State(feat[:, -1], {"x": feat[:, -1]}), None

    def decode(self, feat):
        return {"state": feat}


def run(**wrong):
    return Mock(
        spec=Run,
        cfg=load_config(["env=linear_gaussian", "evaluation.context=3", "evaluation.imag_horizon=8"]),
        model=Simulator(**wrong),
        planner=Random(1, False),
    )


@pytest.fixture(scope="module")
def held_out():
    scored = run()
    with VectorEnv(scored.cfg.env, 3, 0, 60.0) as envs:
        return play(envs, Agent(3, scored.model, True, seeded()), scored.planner)


def test_the_simulator_itself_errs_nowhere(held_out):
    errors = prediction_errors(run(), held_out)
    assert errors.keys() == {"latent", "state", "reward", "cont"}
    assert all(len(steps) == 8 and max(steps) < 1e-8 for steps in errors.values())


def test_errors_of_a_wrong_model_grow_step_by_step(held_out):
    errors = prediction_errors(run(bias=0.01), held_out)
    for name in ("latent", "state"):
        assert errors[name] == sorted(errors[name])
        assert errors[name][0] > 1e-5
    assert max(errors["cont"]) == 0


def test_ranking__simulator_is_right_and_its_opposite_wrong():
    """Correlations are nearly 1 for the simulator as its own model and nearly -1 for it with the sign turned."""
    tape = torch.rand(4, 70, 1, generator=seeded()) - 0.5
    told = ranking(run(), 0, tape)
    assert len(told["correlations"]) == told["states"] == 16
    assert min(told["correlations"]) > 0.9999
    assert max(ranking(run(sign=-1.0), 0, tape)["correlations"]) < -0.9999
    assert ranking(run(), 0, tape[:2, :40])["states"] == 4


def test_all_models_are_judged_on_the_same_episodes(monkeypatch):
    """The prefill's and each planner's own, which an environment begins alike and repeats action for action."""
    one, other = run(), run()
    other.planner = Constant(1, False, 0.5)
    monkeypatch.setattr(
        "worldmodels.evaluation.model_metrics.play_held_out",
        lambda run, n, seed, explore: record_baseline(run.cfg.env, lambda a, d: run.planner, n, seed),
    )
    played = common_episodes([one, other], seed=0)
    assert [len(episodes.returns) for episodes in played] == [5, 5, 5]
    starts = torch.stack([episodes.rows["state"][:, 0] for episodes in played])
    assert torch.equal(starts, starts[:1].expand_as(starts))
    tape = mixed_actions(played)
    assert torch.equal(tape[2], torch.full_like(tape[2], 0.5))
    with held_out_envs(one.cfg.env, len(tape), 0) as envs:
        rows = [envs.reset()] + [envs.step(tape[:, t]) for t in range(20)]
    again = torch.stack([row["state"] for row in rows], 1)
    for n, source in enumerate((0, 1, 2, 0)):
        assert torch.equal(again[n], played[source].rows["state"][n, :21])
