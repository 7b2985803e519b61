"""``env.backend=envpool``: rows as this project's own environments give them, by a stand-in and by EnvPool itself.

What takes EnvPool is skipped where it is not installed; the stand-in of the same interface runs everywhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import fake_envpool
import numpy as np
import pytest
import torch

from worldmodels.common.seeds import derive_seed
from worldmodels.config import load_config
from worldmodels.envs.dmc import DMC
from worldmodels.envs.pool import camel
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import OptionError, UserError

pytestmark = pytest.mark.process

CARTPOLE = {"_target_": "worldmodels.envs.dmc.DMC", "task": "cartpole_swingup", "obs": "state", "backend": "envpool"}
real = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason="EnvPool is not installed: pip install '.[envpool]'"
)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", fake_envpool.module())


def actions(steps: int, n: int, a: int) -> torch.Tensor:
    return torch.rand(steps, n, a, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1


@pytest.mark.parametrize(("task", "repeat"), [("cartpole_swingup", 4), ("fish_swim", 300)])
def test_rows_are_those_of_environments_of_the_same_seeds(stand_in, task, repeat):
    """States in dm_control's order, rewards summed, the last decision of an episode cut short, and a row to begin."""
    config = {**CARTPOLE, "task": task, "action_repeat": repeat}
    with VectorEnv(config, 2, seed=3) as envs:
        steps = envs.episode_decisions + 3
        given = actions(steps, 2, envs.action_dim)
        rows = [envs.reset(), *(envs.step(action) for action in given)]
        assert envs.frames_per_decision == repeat
        assert envs.frame_rate() == pytest.approx(100 / repeat if task == "cartpole_swingup" else 25 / repeat)
    first = derive_seed(3, 0) % (2**31 - 2)
    for index in range(2):
        env = DMC(task, "state", action_repeat=repeat, seed=first + index)
        state, over = env.reset()[0]["state"], True
        for t, row in enumerate(rows):
            if t and over:
                state, reward, frames, begins, over = env.reset()[0]["state"], 0.0, 0, True, False
            elif t:
                seen, reward, _, over, info = env.step(given[t - 1, index].clamp(-1, 1).numpy())
                state, frames, begins = seen["state"], info["frames"], False
            else:
                reward, frames, begins, over = 0.0, 0, True, False
            np.testing.assert_array_equal(row["state"][index].numpy(), state, err_msg=str(t))
            assert row["reward"][index] == pytest.approx(reward, abs=1e-4)
            assert (row["frames"][index], row["is_first"][index], row["is_last"][index]) == (frames, begins, over)
            assert not row["is_terminal"][index]
            assert row["success"][index] == -1
            assert not (begins and row["action"][index].any())


@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({"backend": "envpol"}, "env.backend", "Did you mean 'envpool'"),
        ({"task": "cartpole_swingupp"}, "env.task", "Did you mean 'cartpole_swingup'"),
        ({"task": "cheetah_run"}, "env.backend", "has no CheetahRun-v1"),
        ({"obs": "pixels"}, "env.obs", "must be state"),
        ({"stack": 3}, "env.stack", "must be 1"),
        ({"goal": [0.0]}, "env.goal", "must be null"),
        ({"task": "lqr_lqr_2_1", "action_repeat": 4}, "env.action_repeat", "must be 1"),
        ({"_target_": "worldmodels.envs.toy.Counter"}, "env.backend", "only env=dmc env.obs=state and env=atari"),
    ],
)
def test_what_envpool_does_not_make_is_refused(stand_in, options, option, said):
    """In one sentence that names the option, before anything is stepped."""
    with pytest.raises(OptionError) as refused:
        VectorEnv({**CARTPOLE, **options}, 1, 0)
    assert refused.value.option == option
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["env.obs=both"], "env.obs"),
        (["env.kwargs.life_ends=true"], "env.kwargs.life_ends"),
        (["env.action_repeat=2"], "env.action_repeat"),
    ],
)
def test_games_that_envpool_plays_otherwise_are_refused(stand_in, words, option):
    with pytest.raises(OptionError) as refused:
        VectorEnv(load_config(["env=atari", "env.backend=envpool", *words]).env, 1, 0)
    assert refused.value.option == option


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r"takes envpool .*pip install 'worldmodels\[envpool\]'"):
        VectorEnv(CARTPOLE, 1, 0)


def test_nothing_is_saved_and_all_goes_on(stand_in):
    with VectorEnv(CARTPOLE, 2, 0) as envs:
        envs.reset()
        with pytest.raises(UserError, match=r"cannot save or restore its simulators; env.backend=workers can"):
            envs.snapshot()
        assert envs.step(torch.zeros(2, 1))["frames"].tolist() == [2, 2]


def test_a_state_that_is_not_finite_is_refused(stand_in, monkeypatch):
    told = fake_envpool.Pool.told
    broken = {"velocity": np.full((1, 2), np.nan)}
    monkeypatch.setattr(fake_envpool.Pool, "told", lambda pool, steps: told(pool, steps) | broken)
    with VectorEnv(CARTPOLE, 1, 0) as envs, pytest.raises(UserError, match="cartpole_swingup returned nan"):
        envs.reset()


def test_tasks_are_named_as_envpool_names_them():
    known = {"humanoid_CMU_run": "HumanoidCMURun", "lqr_lqr_2_1": "LqrLqr21", "ball_in_cup_catch": "BallInCupCatch"}
    assert {name: camel(name) for name in known} == known


@real
def test_envpool__has_every_task_with_the_suites_states():
    from dm_control import suite

    envpool = importlib.import_module("envpool")
    known, wrong = set(envpool.list_all_envs()), []
    for domain, task in suite.ALL_TASKS:
        name = f"{camel(f'{domain}_{task}')}-v1"
        assert name in known
        seen, _ = envpool.make_gymnasium(name, num_envs=1, seed=0).reset()
        parts = suite.load(domain, task).observation_spec()
        sizes = {key: seen[key].size if key in seen else None for key in parts}
        if sizes != {key: int(np.prod(spec.shape)) for key, spec in parts.items()}:
            wrong.append(name)
    assert wrong == []


@real
@pytest.mark.parametrize(("task", "angles"), [("cartpole_swingup", True), ("cheetah_run", False)])
def test_envpool__moves_and_rewards_as_dm_control(task, angles):
    """From the state that its episode begins with, which these two tell whole but for a place that does not matter."""
    given = actions(40, 1, 1 if angles else 6).clamp(-1, 1)
    with VectorEnv({**CARTPOLE, "task": task, "action_repeat": 2}, 1, 0) as envs:
        rows = [envs.reset(), *(envs.step(action) for action in given)]
    env = DMC(task, "state", action_repeat=2)
    env.reset()
    begin, physics = rows[0]["state"][0].double().numpy(), env._physics
    with physics.reset_context():
        n = physics.model.nq
        physics.data.qvel[:] = begin[-physics.model.nv :]
        physics.data.qpos[:] = [begin[0], np.arctan2(begin[2], begin[1])] if angles else [0.0, *begin[: n - 1]]
    for row, action in zip(rows[1:], given, strict=True):
        seen, reward, *_ = env.step(action[0].numpy())
        np.testing.assert_allclose(row["state"][0].numpy(), seen["state"], rtol=2e-3, atol=2e-3)
        assert row["reward"][0] == pytest.approx(reward, abs=2e-3)


@real
def test_envpool__same_seeds_play_the_same_episodes():
    given = actions(20, 3, 1)

    def played(seed: int) -> torch.Tensor:
        with VectorEnv(CARTPOLE, 3, seed) as envs:
            return torch.stack([envs.reset()["state"], *(envs.step(action)["state"] for action in given)])

    one = played(5)
    assert torch.equal(one, played(5))
    assert not torch.equal(one, played(6))
    assert not torch.equal(one[:, 0], one[:, 1])


@real
@pytest.mark.parametrize("grayscale", [False, True])
def test_envpool__shows_games_as_ale_does(grayscale):
    """Pixel for pixel, where nothing is random: no sticky actions, and always one idle step to begin with."""
    words = ["env=atari", "env.kwargs.sticky=0", "env.kwargs.noops=1", f"env.kwargs.grayscale={grayscale}"]
    rows = []
    for backend in ("workers", "envpool"):
        with VectorEnv(load_config([*words, f"env.backend={backend}"]).env, 1, 0) as envs:
            choices = torch.eye(envs.action_dim)[torch.arange(120) % envs.action_dim]
            rows.append([envs.reset(), *(envs.step(choice[None]) for choice in choices)])
    for mine, other in zip(*rows, strict=True):
        assert [key for key in mine if not torch.equal(mine[key], other[key])] == []
    assert torch.stack([row["reward"] for row in rows[0]]).any()
