"""What is measured of a model: one that is the simulator itself errs nowhere and ranks everything rightly."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from planner_cases import seeded
from true_models import TrueModel

from dynamics.base import Rollout, State
from planners.random import Random
from worldmodels.cli import load_config
from worldmodels.data.collect import Actor
from worldmodels.envs.toy import LinearGaussian
from worldmodels.envs.vector import VectorEnv
from worldmodels.evaluation import play
from worldmodels.quality import prediction_errors, ranking
from worldmodels.runs import Run


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
    judged = run()
    with VectorEnv(judged.cfg.env, 3, 0, 60.0) as envs:
        return play(envs, Actor(3, judged.model, True, seeded()), judged.planner)


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


def test_the_simulator_itself_ranks_everything_rightly_and_its_opposite_wrongly():
    told = ranking(run(), seed=0)
    assert len(told["correlations"]) == told["states"] == 16
    assert min(told["correlations"]) > 0.9999
    assert max(ranking(run(sign=-1.0), seed=0)["correlations"]) < -0.9999
