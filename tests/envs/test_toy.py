"""The toy environments are what their documentation says, since the conformance suite trusts every number of them."""

from __future__ import annotations

import numpy as np
import pytest
from omegaconf import OmegaConf
from places import CONFIGS

from worldmodels.envs import make
from worldmodels.envs.check import check
from worldmodels.envs.toy import Chain, Counter, LinearGaussian
from worldmodels.errors import UserError

GROUP = CONFIGS / "env"


@pytest.mark.process
@pytest.mark.parametrize("name", ["counter", "chain", "linear_gaussian"])
def test_the_shipped_configuration_passes_the_checker(name):
    config = OmegaConf.to_container(OmegaConf.load(GROUP / f"{name}.yaml"))
    assert [outcome for _, outcome in check(config, steps=40)] == ["ok"] * 5


def test_counter_tells_index_episode_step_reward_and_action():
    env = Counter(lengths=[2, 3], action_dim=2, obs="both", index=1)
    first, _ = env.reset()
    np.testing.assert_array_equal(first["state"], [1, 0, 0, 0, 0, 0])
    env.step(np.array([0.5, -1], np.float32))
    observation, reward, *_ = env.step(np.array([-0.5, 0.25], np.float32))
    assert reward == 2 - 0.25
    np.testing.assert_array_equal(observation["state"], np.array([1, 0, 2, 1.75, -0.5, 0.25], np.float32))
    env.reset()
    observation, reward, *_ = env.step(np.array([1, 0], np.float32))
    assert reward == 101.5
    assert observation["pixels"].shape == (3, 16, 16)
    np.testing.assert_array_equal(observation["pixels"][:, 3, 7], [1, 1, 254])


def test_counter_ends_as_told_and_is_staggered_over_environments():
    def ends(index: int) -> list[tuple[int, bool, bool]]:
        env, found = Counter(lengths=[2, 4], ends=["truncate", "terminate", "both"], index=index), []
        for _ in range(3):
            env.reset()
            steps, over = 0, (False, False)
            while not any(over):
                *_, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
                steps, over = steps + 1, (terminated, truncated)
            found.append((steps, *over))
        return found

    assert ends(0) == [(2, False, True), (4, True, False), (2, True, True)]
    assert ends(1) == [(4, True, False), (2, True, True), (4, False, True)]


def test_chain_values_are_those_of_simulation():
    env, gamma = Chain(length=5), 0.9
    value = env.optimal_value(gamma)
    for start in range(4):
        env.restore({"place": start, "step": 0})
        total, discount, over = 0.0, 1.0, False
        while not over:
            _, reward, over, _, _ = env.step(1)
            total += discount * reward
            discount *= gamma
        assert value[start] == pytest.approx(total)
    assert value[-1] == 0
    random, rewards, moves = env.random_value(gamma), 0.0, ((0, 0.5), (1, 0.5))
    for action, probability in moves:
        env.restore({"place": 3, "step": 0})
        observation, reward, *_ = env.step(action)
        rewards += probability * (reward + gamma * random[observation["state"].argmax()])
    assert random[3] == pytest.approx(rewards)


def test_chain_terminates_at_the_goal_and_truncates_at_the_limit():
    env = Chain(length=4, limit=3)
    env.reset()
    ends = [env.step(1)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (True, False)]
    env.reset()
    ends = [env.step(0)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_linear_gaussian_plan_is_optimal_and_within_bounds():
    env = LinearGaussian()
    observation, _ = env.reset()
    x0, steps = observation["state"].astype(float), 12
    plan = env.optimal_actions(x0, steps)
    assert plan.shape == (steps, 1)
    assert np.abs(plan).max() < 1
    earned = sum(env.step(action)[1] for action in plan)
    assert earned == pytest.approx(env.plan_return(x0, plan), abs=1e-9)
    # The return is a concave quadratic in the plan: its maximum is where every central difference vanishes.
    for t in range(steps):
        bump = np.zeros_like(plan)
        bump[t] = 1e-4
        slope = (env.plan_return(x0, plan + bump) - env.plan_return(x0, plan - bump)) / 2e-4
        assert abs(slope) < 1e-8


def test_linear_gaussian_noise_belongs_to_the_seed():
    def states(seed: int, index: int) -> list[np.ndarray]:
        config = {"_target_": "worldmodels.envs.toy.LinearGaussian", "noise": 0.1}
        env = make(config, seed, index)
        env.reset()
        return [env.step(np.zeros(1))[0]["state"] for _ in range(3)]

    np.testing.assert_array_equal(states(3, 0), states(3, 0))
    assert not np.array_equal(states(3, 0), states(3, 1))
    assert not np.array_equal(states(3, 1), states(4, 0))


@pytest.mark.parametrize(
    "build", [lambda: Counter(ends=["truncated"]), lambda: Chain(start=9), lambda: Counter(size=20)]
)
def test_mistakes_are_one_sentence(build):
    with pytest.raises(UserError):
        build()
