"""Gymnasium environments: images, actions, seeds and snapshots against environments whose every number is known."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodels.envs.base import frame_rate
from worldmodels.envs.gym import GymEnv
from worldmodels.envs.gym.images import as_frames, fit
from worldmodels.errors import UserError


class Painter(gymnasium.Env):
    """An image environment whose every pixel and end is known; ``repeats=False`` makes it forget its seed."""

    def __init__(self, channels: int = 3, repeats: bool = True, nan: bool = False) -> None:
        shape = (40, 60) if channels == 0 else (40, 60, channels)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(3, start=5)
        self._repeats, self._nan, self.given = repeats, nan, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._random = np.random.default_rng(seed if self._repeats else None)
        return self._paint(), {}

    def step(self, action):
        self.given.append(action)
        return self._paint(), float("nan") if self._nan else 1.0, action == 7, False, {}

    def _paint(self):
        return np.full(self.observation_space.shape, self._random.integers(256), np.uint8)


class Wide(gymnasium.Env):
    """A vector environment with a lopsided box, or one without bounds."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, high: float = 6.0) -> None:
        self.action_space = spaces.Box(np.array([-2.0, 1.0], np.float32), np.array([2.0, high], np.float32))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        return action.astype(np.float64), 0.0, False, False, {}


@pytest.fixture(scope="module", autouse=True)
def registered():
    gymnasium.register("Painter-v0", entry_point=Painter, max_episode_steps=7)
    gymnasium.register("Wide-v0", entry_point=Wide)
    yield
    del gymnasium.registry["Painter-v0"], gymnasium.registry["Wide-v0"]


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_images_become_square_color_images(channels):
    env = GymEnv("Painter-v0", size=32, kwargs={"channels": channels})
    image = env.reset()[0]["pixels"]
    assert (image.shape, image.dtype) == ((3, 32, 32), np.uint8)
    assert (image == image[0, 0, 0]).all()
    assert env.observation_space.contains({"pixels": image})


def test_shrinking_averages_areas():
    checkers = np.indices((32, 32)).sum(0) % 2 * 255
    np.testing.assert_allclose(fit(checkers.astype(np.uint8), 16), 128, atol=1)
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[3, :, 2] = 9
    resized = as_frames(fit(stripes, 16))
    assert resized[2, 3].tolist() == [9] * 16
    assert resized.sum() == 9 * 16


def test_discrete_actions_start_at_zero_and_repeat_until_the_end():
    env = GymEnv("Painter-v0", size=16, action_repeat=3)
    env.reset()
    assert env.action_space == spaces.Discrete(3)
    assert env.step(0)[1:] == (3.0, False, False, {"frames": 3})
    assert env.step(1)[1:] == (3.0, False, False, {"frames": 3})
    assert env.step(1)[1:] == (1.0, False, True, {"frames": 1})
    assert env._env.unwrapped.given == [5, 5, 5, 6, 6, 6, 6]
    env.reset()
    assert env.step(2)[1:] == (1.0, True, False, {"frames": 1})


def test_gym_env__maps_box_actions_to_its_box_and_clamps():
    """Actions from -1 to 1 span the environment's own box, and those beyond are clamped."""
    env = GymEnv("Wide-v0", obs="state")
    env.reset()
    assert env.step(np.array([-1, -1]))[0]["state"].tolist() == [-2, 1]
    assert env.step(np.array([0.5, 0]))[0]["state"].tolist() == [1, 3.5]
    assert env.step(np.array([9, 9]))[0]["state"].tolist() == [2, 6]
    assert env.observation_space["state"].dtype == np.float32


def test_each_episode_has_its_own_seed_and_runs_repeat():
    def images(seed: int) -> list[int]:
        env = GymEnv("Painter-v0", size=16, seed=seed)
        return [int(env.reset()[0]["pixels"][0, 0, 0]) for _ in range(6)]

    assert images(1) == images(1)
    assert images(1) != images(2)
    assert len(set(images(1))) > 1


@pytest.mark.parametrize(
    "config",
    [{"id": "Painter-v0", "size": 16}, {"id": "CartPole-v1", "obs": "state"}, {"id": "Hopper-v5", "obs": "both"}],
)
def test_gymnasium_snapshots_are_exact(config):
    one, two = GymEnv(**config, seed=1), GymEnv(**config, seed=2)
    discrete = isinstance(one.action_space, spaces.Discrete)
    actions = (
        [0, 1, 0, 1, 1, 0]
        if discrete
        else list(np.random.default_rng(0).uniform(-1, 1, (6, *one.action_space.shape)).astype(np.float32))
    )
    one.reset()
    one.reset()
    for action in actions[:3]:
        here = one.step(action)[0]
    snapshot = one.snapshot()
    expected = [one.step(action) for action in actions[3:]] + [one.reset()]
    for env in (one, two):
        restored = env.restore(snapshot)
        again = [env.step(action) for action in actions[3:]] + [env.reset()]
        for key in here:
            np.testing.assert_array_equal(restored[key], here[key])
            for row, other in zip(expected, again, strict=True):
                np.testing.assert_array_equal(row[0][key], other[0][key])
        assert [row[1:] for row in expected] == [row[1:] for row in again]


def test_an_environment_that_does_not_repeat_itself_is_refused():
    env = GymEnv("Painter-v0", size=16, kwargs={"repeats": False})
    env.reset()
    for _ in range(4):
        env.step(0)
    with pytest.raises(UserError, match="Painter-v0 does not repeat itself"):
        env.restore(env.snapshot())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "CartPol-v1"}, "Did you mean"),
        ({"id": "CartPole-v1", "kwargs": {"sped": 1}}, "cannot be made"),
        ({"id": "Painter-v0", "obs": "state"}, "use obs=pixels"),
        ({"id": "Painter-v0", "kwargs": {"channels": 5}}, "observes images of shape"),
        ({"id": "Wide-v0", "obs": "state", "kwargs": {"high": float("inf")}}, "without bounds"),
        ({"id": "Painter-v0", "size": 50}, "multiple of 16"),
    ],
)
def test_gymnasium_mistakes_are_one_sentence(options, said):
    with pytest.raises(UserError, match=said) as caught:
        GymEnv(**options)
    assert "\n" not in str(caught.value)


def test_nan_from_gymnasium_is_refused():
    env = GymEnv("Painter-v0", size=16, kwargs={"nan": True})
    env.reset()
    with pytest.raises(UserError, match="Painter-v0 returned a reward of nan"):
        env.step(0)


@pytest.mark.parametrize(
    ("told", "rate"), [(30, 30.0), (0.5, 0.5), (np.float32(4), 4.0), *((x, None) for x in (0, -1, "30", True, np.nan))]
)
def test_a_rate_that_is_none_is_not_told(monkeypatch, told, rate):
    """A video is as fast as one that tells none then, and making the environment goes on."""
    monkeypatch.setattr(Painter, "metadata", {"render_fps": told})
    env = GymEnv("Painter-v0", size=16, action_repeat=2)
    assert frame_rate(env) == (rate and rate / 2)


class Undrawable(gymnasium.Env):
    """Observes numbers, and draws as it is told."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, draw, render_mode=None) -> None:
        self.draw, self.render_mode = draw, render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def render(self):
        return self.draw()


def in_module(name: str, code: str):
    """A function whose code belongs to a module of that name."""
    space = {"__name__": name}
    exec(f"def draw():\n    {code}", space)
    return space["draw"]


def wrapped(inner):
    def draw():
        try:
            inner()
        except Exception as error:
            raise RuntimeError("no picture") from error

    return draw


def drawing_error(draw, obs: str) -> str:
    gymnasium.register("Undrawable-v0", entry_point=Undrawable)
    try:
        env = GymEnv("Undrawable-v0", obs=obs, size=16, kwargs={"draw": draw})
        with pytest.raises(UserError) as caught:
            env.reset()
    finally:
        del gymnasium.registry["Undrawable-v0"]
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize("obs", ["pixels", "both"])
@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("mine", "raise NotImplementedError", "NotImplementedError (<string>, line 2)"),
        ("mujoco_toys.env", "raise OSError('no sprites ' + 'x' * 1000)", "OSError: no sprites xxx"),
        ("pygame", "raise RuntimeError('No available video device')", "RuntimeError: No available video device"),
    ],
)
def test_an_environment_that_cannot_draw_is_not_opengls_fault(obs, module, code, said):
    message = drawing_error(in_module(module, code), obs)
    assert message.startswith(f"Undrawable-v0 cannot be drawn ({said}")
    assert message.endswith(
        "its render() must return an image with render_mode='rgb_array'; mend it, or observe obs=state."
    )
    assert "MUJOCO_GL" not in message


@pytest.mark.parametrize("module", ["mujoco.egl", "OpenGL.platform.egl", "gymnasium.envs.mujoco.mujoco_rendering"])
def test_what_opengl_cannot_draw_names_the_package(module):
    fails = in_module(module, "raise AttributeError('eglQueryString')")
    for draw in (fails, wrapped(fails)):
        message = drawing_error(draw, "pixels")
        assert message.startswith("No frame can be drawn with MUJOCO_GL=")
        assert "apt-get install" in message
