"""The simulator in a model's place: what it imagines is what then happens."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from planner_cases import build, seeded
from toy_runs import TINY, script

from worldmodels.agent import Agent
from worldmodels.config import load_config
from worldmodels.envs import make
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.evaluation import simulators as simulation
from worldmodels.evaluation.oracle import SNAPSHOT, Oracle, OracleAgent, pack, unpack
from worldmodels.evaluation.rollout import evaluate_oracle
from worldmodels.evaluation.simulators import NOTHING, Simulators
from worldmodels.factory import build_model, build_planner

ENVS = {
    "linear_gaussian": ["env=linear_gaussian"],
    "chain": ["env=chain"],
    "dmc": ["env.task=cartpole_swingup", "env.obs=state"],
}


def test_snapshots_of_different_lengths_survive_packing():
    snapshots = [b"one", b"", b"three\0\0"]
    assert unpack(pack(snapshots)) == snapshots


@pytest.mark.process
@pytest.mark.parametrize("name", ENVS)
def test_what_the_oracle_imagines_is_what_happens(name):
    env = load_config(ENVS[name]).env
    with VectorEnv(env, 2, seed=3) as envs, Simulators(env, envs.discrete, workers=2) as simulators:
        oracle = Oracle(simulators, envs.action_dim)
        agent = OracleAgent(envs, oracle, False, seeded())
        generator, rows = seeded(1), envs.reset()
        for _ in range(3):
            rows = envs.step(2 * torch.rand(2, envs.action_dim, generator=generator) - 1)
        agent.filter(rows)
        actions = 2 * torch.rand(2, 4, envs.action_dim, generator=generator) - 1
        forked = oracle.dynamics.fork(agent.state, 3)
        tried = 2 * torch.rand(6, 4, envs.action_dim, generator=generator) - 1
        tried[1], tried[4] = actions[0], actions[1]
        imagined = oracle.imagine(forked, tried, 4)
        state, stepped = agent.state, []
        for t in range(4):
            state = oracle.dynamics.img_step(actions[:, t], state)
            stepped.append(state.feat)
        ended = torch.zeros(2, dtype=torch.bool)
        for t in range(4):
            rows = envs.step(actions[:, t])
            live = ~ended
            assert torch.equal(imagined.reward[[1, 4], t][live], rows["reward"][live])
            assert torch.equal(imagined.cont[[1, 4], t][live], (~rows["is_terminal"]).float()[live])
            if "state" in rows:
                assert torch.equal(imagined.feat[[1, 4], t + 1][live], rows["state"][live])
                assert torch.equal(stepped[t][live], rows["state"][live])
            ended |= rows["is_last"]


@pytest.mark.process
def test_planning_with_the_oracle_heads_for_the_goal():
    env = load_config(["env=chain"]).env
    with VectorEnv(env, 2, seed=0) as envs, Simulators(env, envs.discrete, workers=1) as simulators:
        oracle = Oracle(simulators, envs.action_dim)
        oracle.discrete, oracle.action_dim, oracle.feat_dim, oracle.goal_dim = envs.discrete, envs.action_dim, 1, 0
        planner = build("mppi", oracle, num_samples=64, num_elites=8, iterations=2)
        agent, rows, steps = OracleAgent(envs, oracle, False, seeded()), envs.reset(), 0
        while not rows["is_last"].any():
            agent.filter(rows)
            rows, steps = envs.step(agent.act(planner, rows["is_first"])), steps + 1
        assert rows["is_terminal"].all()
        assert rows["reward"].tolist() == [1.0, 1.0]


def test_the_oracle_refuses_what_reads_features_or_gradients():
    env = load_config(["env=linear_gaussian"]).env
    with Simulators(env, False, workers=1) as simulators:
        oracle = Oracle(simulators, 2)
        with pytest.raises(UserError, match="without learned parts"):
            oracle.imagine(oracle.initial(1), lambda feat: feat, 2)
        with pytest.raises(UserError, match="no gradient"):
            oracle.imagine(oracle.initial(1), torch.zeros(1, 2, 2), 2, frozen=True)
        assert oracle.initial(3).memory[SNAPSHOT].shape == (3, 8)


def test_an_environment_that_cannot_save_its_state_is_refused(run_folder, said):
    env = {"_target_": "broken_envs.Mute"}
    with VectorEnv(env, 1, seed=0) as envs, Simulators(env, envs.discrete, workers=1) as simulators:
        agent = OracleAgent(envs, Oracle(simulators, envs.action_dim), False, seeded())
        with pytest.raises(UserError, match="model=simulator needs to save and restore") as error:
            agent.filter(envs.reset())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["simulator", pytest.param("oracle", marks=pytest.mark.slow)])
def test_a_run_is_evaluated_on_the_simulator_too(word, run_folder):
    before = (run_folder / "evaluation.json").read_text()
    script("evaluate")([f"run={run_folder}", f"model={word}", "episodes=2"])
    assert (run_folder / "evaluation.json").read_text() == before
    assert '"model": "simulator"' in (run_folder / "evaluation_simulator.json").read_text()
    assert '"model": "oracle"' in (run_folder / "evaluation_oracle.json").read_text()  # the old name


def test_simulator_and_learned_are_the_only_models(run_folder, said):
    message = said.refusal("evaluate", f"run={run_folder}", "model=simulater")
    assert "Did you mean 'simulator'?" in message
    message = said.refusal("evaluate", f"run={run_folder}", "model=orakel")
    assert "Did you mean 'oracle'?" in message


def test_a_start_is_unpickled_once_for_all_candidates(monkeypatch):
    env, loads, loading = make(load_config(["env=linear_gaussian"]).env, 0), [], pickle.loads
    env.reset(seed=0)
    starts = []
    for action in (0.5, -0.5):
        env.step(np.full(env.action_space.shape, action, np.float32))
        starts.append(pickle.dumps({"env": env.snapshot(), "pending_reset": False}))
    monkeypatch.setattr(simulation, "_simulator", env)
    monkeypatch.setattr(simulation.pickle, "loads", lambda data: loads.append(data) or loading(data))
    simulation._unpickled.cache_clear()
    which = np.repeat([0, 1], 16)
    actions = np.random.default_rng(0).uniform(-1, 1, (32, 5, *env.action_space.shape)).astype(np.float32)
    first = simulation._play(starts, which, actions, NOTHING)
    assert len(loads) == 2  # 32 before
    again = simulation._play(starts, which, actions, NOTHING)  # the next iteration of a search
    assert len(loads) == 2
    for one, other in zip(first[:3], again[:3], strict=True):
        assert np.array_equal(one, other)


def untrained(envs, env, dynamics, planner):
    """A world model and a guided search of random weights, whose critic is one that tells states apart."""
    words = [*env, f"dynamics={dynamics}", *[w for w in TINY if w.startswith("size.")], f"planner={planner}"]
    search = ["num_samples=8", "num_elites=4", "iterations=1", "plan_horizon=3", "replan_every=1"]
    words += [*(f"planner.search.{word}" for word in search), "planner.policy_samples=2"]
    cfg = load_config(words)
    torch.manual_seed(0)
    model = build_model(cfg, envs.observation_spec, envs.action_dim).eval()
    features = model.dynamics.feature_spec
    built = build_planner(cfg.planner, envs.action_dim, envs.discrete, features, nets=cfg.nets).eval()
    return cfg, model, built


@pytest.mark.process
@pytest.mark.parametrize(("dynamics", "env"), [("implicit", "chain"), ("rssm", "linear_gaussian"), ("ssm", "chain")])
def test_a_learned_value_reads_the_filtered_simulation(dynamics, env):
    words = [f"env={env}"]
    with VectorEnv(load_config(words).env, 2, seed=3) as envs:
        cfg, model, _ = untrained(envs, words, dynamics, "mppi_actor_critic")
        model.dynamics.sample = False
        with Simulators(cfg.env, envs.discrete, workers=1, complete=True) as simulators:
            oracle = Oracle(simulators, envs.action_dim, model)
            planning, acting = OracleAgent(envs, oracle, False, seeded()), Agent(2, model, False, seeded())
            generator, rows = seeded(1), envs.reset()
            for _ in range(2):
                planning.filter(rows)
                acting.filter(rows)
                rows = envs.step(one_hots(envs, torch.randn(2, envs.action_dim, generator=generator)))
            planning.filter(rows)
            acting.filter(rows)
            assert torch.equal(planning.state.feat, acting.state.feat)
            tried = one_hots(envs, torch.randn(2, 3, envs.action_dim, generator=generator))
            forked = oracle.dynamics.select(oracle.dynamics.fork(planning.state, 2), torch.tensor([0, 2]))
            imagined = oracle.imagine(forked, tried, 3)
            followed = oracle.imagine(forked, Repeat(tried), 3)
            assert torch.equal(followed.action, tried)
            for t in range(3):
                rows = envs.step(tried[:, t])
                acting.filter(rows)
                assert not rows["is_last"].any()
                assert torch.equal(imagined.reward[:, t], rows["reward"])
                assert torch.equal(followed.reward[:, t], rows["reward"])
                torch.testing.assert_close(followed.feat[:, t + 1], acting.state.feat)
    torch.testing.assert_close(imagined.feat[:, -1], acting.state.feat)
    assert imagined.feat[:, 1:-1].isnan().all() == (not model.dynamics.recurrent)


class Repeat:
    """A policy that plays given actions."""

    def __init__(self, actions):
        self.actions = actions

    def initial(self, n):
        return {"at": torch.zeros(n, dtype=torch.int64)}

    def __call__(self, state, carry, noise):
        assert state.feat.isfinite().all()
        return self.actions[:, carry["at"][0]], {"at": carry["at"] + 1}


def one_hots(envs, numbers):
    """Actions as environments take them."""
    if not envs.discrete:
        return numbers.clamp(-1, 1)
    return torch.nn.functional.one_hot(numbers.argmax(-1), envs.action_dim).float()


@pytest.mark.process
@pytest.mark.parametrize("planner", ["tdmpc", "mppi_actor_critic", "cem_actor_critic"])
def test_guided_searches_play_on_the_simulator(planner, monkeypatch):
    env = ["env=linear_gaussian", "env.limit=4"]
    with VectorEnv(load_config(env).env, 1, seed=0) as envs:
        cfg, model, guided = untrained(envs, env, "implicit", planner)
    asked = []
    value = type(guided.learner).value
    monkeypatch.setattr(
        type(guided.learner), "value", lambda self, feat, streams: asked.append(feat) or value(self, feat, streams)
    )
    played = evaluate_oracle(cfg.env, guided, 2, 0, False, model)
    assert len(played.returns) == 2
    assert all(feat.isfinite().all() for feat in asked)
    assert asked[0].shape[1:] == (8, model.dynamics.feat_dim)


@pytest.mark.process
def test_policies_alone_are_refused_on_the_simulator():
    with VectorEnv(load_config(["env=linear_gaussian"]).env, 1, seed=0) as envs:
        cfg, model, guided = untrained(envs, ["env=linear_gaussian"], "implicit", "mppi_actor_critic")
    guided.mpc = False
    for planner in (guided, guided.learner):
        with pytest.raises(UserError, match="unless it guides a search") as error:
            evaluate_oracle(cfg.env, planner, 1, 0, False, model)
        assert "\n" not in str(error.value)
