"""The simulator in a model's place: what it imagines is what then happens."""

from __future__ import annotations

import pytest
import torch
from planner_cases import build, seeded
from toy_runs import script

from worldmodels.config import load_config
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.evaluation.oracle import SNAPSHOT, Oracle, OracleAgent, Simulators, pack, unpack

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
        with pytest.raises(UserError, match="model=oracle needs to save and restore") as error:
            agent.filter(envs.reset())
        assert "\n" not in str(error.value)


def test_a_run_is_evaluated_with_the_oracle_beside_its_own_score(run_folder):
    before = (run_folder / "evaluation.json").read_text()
    script("evaluate")([f"run={run_folder}", "model=oracle", "episodes=2"])
    assert (run_folder / "evaluation.json").read_text() == before
    assert '"model": "oracle"' in (run_folder / "evaluation_oracle.json").read_text()


def test_oracle_and_learned_are_the_only_models(run_folder, said):
    message = said.refusal("evaluate", f"run={run_folder}", "model=orakel")
    assert "Did you mean 'oracle'?" in message
