"""dm_control against the library itself, exact snapshots on every task, what mistakes say, and the checker."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from dm_control import suite
from omegaconf import OmegaConf
from places import CONFIGS

from worldmodels.common.seeds import derive_seed
from worldmodels.envs import make
from worldmodels.envs.check import check, main
from worldmodels.envs.dmc import DMC, MODEL_FIELDS
from worldmodels.errors import UserError

TASKS = ["_".join(pair) for pair in suite.ALL_TASKS]
DRAWN = ["cheetah_run", "quadruped_escape", "lqr_lqr_6_2", "swimmer_swimmer6"]
GROUP = CONFIGS / "env"


def tape(env: gymnasium.Env, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def flat(observation: dict) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


@pytest.mark.heavy
@pytest.mark.parametrize("task", TASKS)
def test_an_action_tape_gives_what_bare_dm_control_gives(task):
    env = DMC(task, obs="state", action_repeat=2, seed=7)
    domain, name = dict(zip(TASKS, suite.ALL_TASKS, strict=True))[task]
    bare = suite.load(domain, name, task_kwargs={"random": 7})
    spec = bare.action_spec()
    low, high = np.maximum(spec.minimum, -1e3), np.minimum(spec.maximum, 1e3)
    low, high = np.where(low == -1e3, -1, low), np.where(high == 1e3, 1, high)
    for _ in range(2):  # the second reset draws from the generator the first one left behind
        np.testing.assert_array_equal(env.reset()[0]["state"], flat(bare.reset().observation))
        for action in tape(env, 5):
            steps = [bare.step(low + (action.astype(np.float64) + 1) * 0.5 * (high - low)) for _ in range(2)]
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == pytest.approx(steps[0].reward + steps[1].reward, abs=1e-12)
            np.testing.assert_allclose(observation["state"], flat(steps[1].observation), rtol=1e-6, atol=1e-7)
            assert (terminated, truncated, info["frames"]) == (False, False, 2)


def roll(env: DMC, actions: np.ndarray, reset_at: int) -> list:
    rows = []
    for t, action in enumerate(actions):
        if t == reset_at:
            rows.append([env.reset()[0]["state"].tobytes()])
        else:
            observation, reward, terminated, truncated, _ = env.step(action)
            rows.append([observation["state"].tobytes(), reward, terminated, truncated])
    return rows


@pytest.mark.heavy
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("before", [0, 7])
def test_snapshots__are_exact_over_resets_and_instances(task, before):
    """The environment, or another instance, goes on from a snapshot with the same rows, over a reset too."""
    env = DMC(task, obs="state", action_repeat=1, seed=1)
    env.reset()
    for action in tape(env, before, seed=2):
        env.step(action)
    snapshot = env.snapshot()
    here = env._state.copy()
    actions = tape(env, 20, seed=3)
    expected = roll(env, actions, reset_at=6)
    other = DMC(task, obs="state", action_repeat=1, seed=99)
    other.reset()
    for target in (env, other):
        np.testing.assert_array_equal(target.restore(snapshot)["state"], here)
        assert roll(target, actions, reset_at=6) == expected


@pytest.mark.heavy
def test_snapshots__cover_every_part_of_the_model_tasks_change():
    """Any field of MuJoCo's model that a reset changes, in any task of the suite, is one of MODEL_FIELDS."""
    for domain, name in suite.ALL_TASKS:
        one, two = (suite.load(domain, name, task_kwargs={"random": seed}) for seed in (1, 2))
        model, other = one.physics.model.ptr, two.physics.model.ptr
        built = {field: value.copy() for field in dir(model) if isinstance(value := getattr(model, field), np.ndarray)}
        for env in (one, two, two):
            env.reset()
        for field, before in built.items():
            after = getattr(model, field), getattr(other, field)
            if not all(np.array_equal(before, now, equal_nan=True) for now in after):
                assert field in MODEL_FIELDS, f"{domain}_{name} changes {field}"


@pytest.mark.parametrize("task", DRAWN)
def test_frames_are_those_of_dm_control_also_after_restoring(task):
    env = DMC(task, obs="both", size=32, seed=3)
    first = env.reset()[0]
    domain, name = dict(zip(TASKS, suite.ALL_TASKS, strict=True))[task]
    bare = suite.load(domain, name, task_kwargs={"random": 3})
    bare.reset()
    frame = bare.physics.render(32, 32, camera_id=2 if domain == "quadruped" else 0)
    np.testing.assert_array_equal(first["pixels"], frame.transpose(2, 0, 1))
    assert first["pixels"].dtype == np.uint8
    assert first["pixels"].std() > 5
    for action in tape(env, 3):
        expected = env.step(action)[0]["pixels"]
    snapshot = env.snapshot()
    env.reset()
    np.testing.assert_array_equal(env.restore(snapshot)["pixels"], expected)


@pytest.mark.parametrize("size", [16, 496])
def test_frames_of_any_size_fill_their_buffer(size):
    """Also those higher than the 480 pixels that models of the suite have a buffer for; none has a larger one."""
    env = DMC("cartpole_swingup", size=size, seed=3)
    frame = env.reset()[0]["pixels"]
    assert frame.shape == (3, size, size)
    bare = suite.load("cartpole", "swingup", task_kwargs={"random": 3})
    bare.physics.model.ptr.vis.global_.offheight = 800
    bare.reset()
    np.testing.assert_array_equal(frame, bare.physics.render(size, size, camera_id=0).transpose(2, 0, 1))
    visual = env._physics.model.ptr.vis.global_
    assert (visual.offwidth, visual.offheight) == (size, size)


def test_action_repeat__sums_rewards_up_to_the_episode_end():
    """The last decision of an episode takes only the frames that are left, and a further step asks for a reset."""
    one, three = (DMC("cheetah_run", obs="state", action_repeat=repeat, seed=5) for repeat in (1, 3))
    one.reset()
    three.reset()
    action, frames, truncated = np.full(6, 0.4, np.float32), 0, False
    while not truncated:
        observation, reward, terminated, truncated, info = three.step(action)
        assert not terminated
        singles = [one.step(action) for _ in range(info["frames"])]
        assert reward == pytest.approx(sum(row[1] for row in singles), abs=1e-12)
        np.testing.assert_array_equal(observation["state"], singles[-1][0]["state"])
        assert singles[-1][3] == truncated
        frames += info["frames"]
    assert (frames, info["frames"]) == (1000, 1)
    with pytest.raises(UserError, match="reset"):
        three.step(action)


def test_lqr__terminates_on_convergence_else_is_truncated():
    """At rest at the origin it terminates after one frame; otherwise the time limit truncates it."""
    env = DMC("lqr_lqr_2_1", obs="state", action_repeat=4)
    env.reset()
    ends = [env.step(np.ones(1))[2:4] for _ in range(250)]
    assert ends == [(False, False)] * 249 + [(False, True)]
    env.reset()
    env._physics.data.qpos[:], env._physics.data.qvel[:] = 0, 0
    env._physics.forward()
    _, _, terminated, truncated, info = env.step(np.zeros(1))
    assert (terminated, truncated, info["frames"]) == (True, False, 1)


def test_fast_rendering_differs_and_full_is_the_default():
    frames = {}
    for quality in ("full", "fast", None):
        render = None if quality is None else {"quality": quality}
        frames[quality] = DMC("cheetah_run", size=64, render=render).reset()[0]["pixels"]
    assert np.array_equal(frames[None], frames["full"])
    assert not np.array_equal(frames["fast"], frames["full"])


@pytest.mark.process
def test_state_observations_never_touch_opengl():
    code = (
        "import sys\n"
        "from worldmodels.envs.stream import enter_worker\n"
        "from worldmodels.envs.dmc import DMC\n"
        "enter_worker({'obs': 'state'})\n"
        "env = DMC('cheetah_run', obs='state')\n"
        "env.reset(); env.step(env.action_space.sample())\n"
        "assert not [m for m in sys.modules if m.startswith(('OpenGL', 'glfw'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nan_and_divergence_are_errors_that_name_the_task(monkeypatch):
    env = DMC("cheetah_run", obs="state")
    env.reset()
    with pytest.raises(UserError, match="cheetah_run was given the action"):
        env.step(np.full(6, np.nan))
    monkeypatch.setattr(env._env.task, "get_reward", lambda physics: np.nan)
    with pytest.raises(UserError, match="cheetah_run returned a reward of nan"):
        env.step(np.zeros(6))
    monkeypatch.undo()
    env.reset()
    env._physics.data.qvel[:] = 1e12
    with pytest.raises(UserError, match="cheetah_run: the simulation diverged"):
        env.step(np.zeros(6))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "cheeta_run"}, "Did you mean 'cheetah_run'"),
        ({"task": "walker"}, "is not a task of dm_control.suite"),
        ({"camera": "sid"}, r"which has 0 \(side\), 1 \(back\). Did you mean 'side'"),
        ({"camera": 2}, r"which has 0 \(side\), 1 \(back\)"),
        ({"size": 50}, "multiple of 16"),
        ({"obs": "pixel"}, "Did you mean 'pixels'"),
        ({"action_repeat": 0}, "action_repeat=0"),
        ({"render": {"quality": "fasst"}}, "Did you mean 'fast'"),
        ({"render": {"shadow": False}}, "render.shadow=false is not an option of Render"),
    ],
)
def test_mistakes_are_one_sentence(options, said):
    with pytest.raises(UserError, match=said) as caught:
        DMC(**{"task": "cheetah_run", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dmc", "gym"])
def test_the_shipped_configuration_has_every_option_of_its_class(name):
    config = OmegaConf.to_container(OmegaConf.load(GROUP / f"{name}.yaml"))
    env = make({**config, "obs": "state"}, seed=0)
    assert "state" in env.reset()[0]


@pytest.mark.process
@pytest.mark.parametrize(
    ("target", "failing"),
    [("Forgetful", "snapshot and restore"), ("Unseeded", "same seed, same episodes")],
)
def test_the_checker_finds_what_is_wrong(target, failing):
    report = dict(check({"_target_": f"broken_envs.{target}"}))
    assert report[failing] != "ok"
    assert report["observations and rewards"] == "ok"


@pytest.mark.process
def test_the_checker_reports_on_the_command_line(capsys):
    assert main(["_target_=worldmodels.envs.toy.Chain", "length=4"]) == 0
    assert capsys.readouterr().out.count("ok  ") == 5
    assert main(["_target_=worldmodels.envs.toy.Chain", "lenght=4"]) == 1
    assert "Did you mean 'length'" in capsys.readouterr().err


def test_seeds_of_neighbors_differ():
    seeds = {derive_seed(seed, index) for seed in range(20) for index in range(20)}
    assert len(seeds) == 400
