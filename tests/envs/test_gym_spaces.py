"""Any Gymnasium space: images, vectors, actions, rewards and successes of every shape, or one sentence."""

from __future__ import annotations

import logging

import numpy as np
import odd_envs  # noqa: F401 - registers
import pytest
from gymnasium import spaces

from worldmodels.common import terminal
from worldmodels.envs.base import as_reward, check_spaces
from worldmodels.envs.gym import GymEnv
from worldmodels.envs.gym.making import frames_per_step, make
from worldmodels.envs.successes import UNKNOWN, success_of
from worldmodels.errors import UserError


def env_of(obs="state", size=16, **kwargs) -> GymEnv:
    return GymEnv("Odd-v0", obs=obs, size=size, kwargs=kwargs)


def inside(env: GymEnv):
    return env._env.unwrapped


def seen(space, raw, obs="state", size=16) -> np.ndarray:
    return env_of(obs, size, observation_space=space, raw=raw).reset()[0]["state" if obs == "state" else "pixels"]


def refused(said: str, **kwargs) -> None:
    with pytest.raises(UserError, match=said) as caught:
        env_of(**kwargs).reset()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("reward", [2, 2.0, np.float32(2), np.array(2), np.array([2]), [[2.0]], True + True])
def test_a_reward_is_one_number_in_any_brackets(reward):
    assert as_reward("Odd", reward) == 2.0
    env = env_of(reward=reward)
    env.reset()
    assert env.step(np.zeros(1))[1] == 2.0


@pytest.mark.parametrize("reward", [1e300, -3.5e38, np.float64(1e39), 2.0**130])
def test_numbers_beyond_float32_are_no_rewards(reward):
    env = env_of(reward=reward)
    env.reset()
    with pytest.raises(UserError, match=r"reward of -?[\d.]+e\+\d+, beyond float32's 3.4e\+38"):
        env.step(np.zeros(1))
    largest = env_of(reward=3.4e38)
    largest.reset()
    assert np.isfinite(np.float32(largest.step(np.zeros(1))[1]))


@pytest.mark.parametrize("reward", [None, "2", [1, 2], [], [[1], [2, 3]], {"a": 1}, 1j])
def test_what_is_no_reward_is_refused_by_name(reward):
    env = env_of(reward=reward)
    env.reset()
    with pytest.raises(UserError, match="as its reward, which must be one number"):
        env.step(np.zeros(1))


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, UNKNOWN),
        ({"success": None}, UNKNOWN),
        ({"success": True}, 1),
        ({"is_success": np.bool_(False)}, 0),
        ({"is_success": np.array([1.0])}, 1),
        ({"success": 0.0, "is_success": True}, 1),
        ({"final_info": {"success": True}}, 1),
        ({"final_info": [None, {"is_success": False}]}, 0),
        ({"final_info": None, "success": False}, 0),
    ],
)
def test_success_is_read_wherever_it_is_told(info, expected):
    assert success_of(info) == expected
    env = env_of(info=info)
    env.reset()
    assert env.step(np.zeros(1))[4].get("success", UNKNOWN) == expected


@pytest.mark.parametrize(
    ("value", "told"),
    [("yes", "yes"), ([True, False], r"\[true, false\]"), (float("nan"), "nan"), ("True", "'True'"), ("1", "'1'")],
)
def test_a_success_that_is_neither_true_nor_false_is_refused(value, told):
    with pytest.raises(UserError, match=f"={told} is neither true nor false"):
        success_of({"success": value})


def test_a_success_within_repeated_steps_is_kept():
    env = GymEnv("Success-v0", obs="state", action_repeat=2)
    env.reset()
    assert [env.step(np.zeros(1))[4]["success"] for _ in range(3)] == [False, True, True]


def test_a_time_limit_truncates_and_replaces_the_own_one():
    for limit, kwargs, length in [(3, {}, 3), (None, {}, 5), (None, {"max_episode_steps": 4}, 4), (9, {}, 9)]:
        env = GymEnv("Limited-v0", obs="state", kwargs=kwargs, max_episode_steps=limit)
        env.reset()
        ends = [env.step(np.zeros(1))[2:4] for _ in range(length)]
        assert ends == [(False, False)] * (length - 1) + [(False, True)]
    with pytest.raises(UserError, match=r"max_episode_steps=3 and kwargs.max_episode_steps=4 differ"):
        GymEnv("Limited-v0", obs="state", kwargs={"max_episode_steps": 4}, max_episode_steps=3)


def test_a_snapshot_beyond_another_time_limit_is_refused():
    long, short = (GymEnv("Odd-v0", obs="state", max_episode_steps=limit) for limit in (9, 3))
    long.reset()
    for steps in (3, 4):
        while len(long.snapshot()["tape"]) < steps:
            long.step(np.zeros(1))
        if steps == 3:
            short.restore(long.snapshot())
    with pytest.raises(UserError, match="over after 3 of its 4 actions"):
        short.restore(long.snapshot())


BINARY = np.tile(np.array([0, 1], np.uint8), (16, 8))


@pytest.mark.parametrize(
    ("space", "raw"),
    [
        (spaces.Box(0, 1, (16, 16), np.uint8), BINARY),
        (spaces.Box(0, 1, (16, 16, 1), bool), BINARY[..., None].astype(bool)),
        (spaces.Box(0, 1, (16, 16), np.float32), BINARY.astype(np.float32)),
        (spaces.Box(0, 1, (16, 16, 3), np.float32), np.repeat(BINARY[..., None], 3, -1).astype(np.float64)),
        (spaces.Box(-1, 1, (3, 16, 16), np.float32), np.repeat(BINARY[None], 3, 0) * 2.0 - 1),
        (spaces.Box(0, 255, (16, 16, 3), np.float32), np.repeat(BINARY[..., None], 3, -1) * 255.0),
        (spaces.Box(0, 10, (16, 16), np.uint8), (BINARY * 10).tolist()),
    ],
)
def test_images_are_scaled_by_their_declared_bounds(space, raw):
    image = seen(space, raw, "pixels")
    np.testing.assert_array_equal(image, np.repeat(BINARY[None] * 255, 3, 0))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 16, 1), [7, 7, 7]),
        ((16, 16, 2), [7, 8, 0]),
        ((16, 16, 4), [7, 8, 9]),
        ((1, 16, 16), [7, 7, 7]),
        ((3, 16, 16), [7, 8, 9]),
        ((4, 16, 16), [7, 7, 7, 8, 8, 8, 9, 9, 9, 10, 10, 10]),
        ((30, 200, 3), [7, 8, 9]),
        ((3, 5, 7), [7, 8, 9]),
    ],
)
def test_channels_may_stand_first_or_last(shape, expected):
    first = shape[-1] > 4
    channels = np.arange(7, 7 + shape[0 if first else -1], dtype=np.uint8)
    raw = np.broadcast_to(channels[:, None, None] if first else channels, shape)
    image = seen(spaces.Box(0, 255, shape, np.uint8), raw, "pixels")
    assert image.shape == (len(expected), 16, 16)
    assert image[:, 3, 5].tolist() == expected
    assert (image == image[:, :1, :1]).all()


def test_a_constant_image_divides_by_nothing():
    with np.errstate(all="raise"):
        assert not seen(spaces.Box(3, 3, (16, 16), np.uint8), np.full((16, 16), 3, np.uint8), "pixels").any()


@pytest.mark.parametrize(
    "raw",
    [
        np.full((16, 16, 3), 0.5),  # floats where bytes are declared: skimage's resize
        np.full((16, 16, 3), -1),
        np.full((16, 16, 3), 256),
        np.zeros((16, 15, 3), np.uint8),
        [["a"]],
        None,
    ],
)
def test_images_that_are_not_as_declared_are_refused(raw):
    space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    with pytest.raises(UserError, match=r"returned an image .* where it declares uint8"):
        seen(space, np.asarray(raw), "pixels")


def test_float_images_may_overshoot_by_rounding_alone():
    space = spaces.Box(0, 1, (16, 16, 3), np.float32)
    assert (seen(space, np.full((16, 16, 3), 1.00001), "pixels") == 255).all()
    for wrong in (1.1, np.nan, 255.0):
        with pytest.raises(UserError, match=r"returned an image float64 from .* where it declares float32 from 0 to 1"):
            seen(space, np.full((16, 16, 3), wrong), "pixels")


def test_images_are_no_states_and_small_boards_are_what_is_asked():
    image = spaces.Box(0, 1, (16, 16, 3), np.float32)
    refused("observes images and has no state vector", observation_space=image, raw=np.zeros((16, 16, 3)))
    board = spaces.Box(0, 1, (3, 3, 2), np.float32)
    assert seen(board, np.ones((3, 3, 2)), "state").tolist() == [1] * 18
    assert seen(board, np.ones((3, 3, 2)), "pixels")[:2].min() == 255


@pytest.mark.parametrize(
    ("space", "raw", "expected"),
    [
        (spaces.Discrete(3, start=-1), 1, [0, 0, 1]),
        (spaces.Discrete(2), np.array([1]), [0, 1]),
        (spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (spaces.Box(-1, 1, (), np.float32), 0.5, [0.5]),
        (spaces.Box(-9, 9, (2,), np.int64), [3, -3], [3, -3]),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 9, (1,))]), (1, [7]), [0, 1, 7]),
        (
            spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"c": spaces.Box(0, 9, (2,))})}),
            {"b": 0, "a": {"c": [3, 4]}},
            [3, 4, 1, 0],
        ),
    ],
)
def test_choices_and_parts_become_one_vector(space, raw, expected):
    state = seen(space, raw)
    assert (state.tolist(), state.dtype) == (expected, np.float32)


@pytest.mark.parametrize(
    ("space", "raw", "said"),
    [
        (spaces.Text(5), "hello", "observes Text"),
        (spaces.Dict({"mission": spaces.Text(5)}), {}, "observes as mission Text"),
        (spaces.Dict({"view": spaces.Box(0, 255, (16, 16, 3), np.uint8)}), {}, "observes images and has no state"),
        (spaces.Discrete(2), 2, "observed 2, which is not in Discrete"),
        (spaces.Discrete(2), "1", "returned '1' where it declares Discrete"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}, "without 'a', which it declares"),
        (spaces.Discrete(10**6), 1, "1,000,000 numbers as a vector"),
    ],
)
def test_what_is_no_vector_is_refused_in_one_sentence(space, raw, said):
    refused(said, observation_space=space, raw=raw)


def given(space, *actions) -> list:
    env = env_of(action_space=space, length=0)
    env.reset()
    for action in actions:
        env.step(np.array(action))
    return inside(env).given


def test_boxes_of_any_finite_range_are_spanned():
    box = spaces.Box(np.array([0, -0.75]), np.array([5, 0.25]), dtype=np.float64)
    assert [a.tolist() for a in given(box, [-1, -1], [0, 0], [1, 1])] == [[0, -0.75], [2.5, -0.25], [5, 0.25]]
    assert given(spaces.Box(-2, 4, (), np.float32), [0.0])[0] == 1
    whole = given(spaces.Box(1, 4, (2,), np.int64), [-1, 1], [-0.6, 0.1], [0, 0.49])
    assert [a.tolist() for a in whole] == [[1, 4], [1, 3], [3, 3]]
    assert given(spaces.Box(3, 3, (1,), np.float32), [0.3])[0] == 3


@pytest.mark.parametrize("high", [np.inf, 1e38, 3.4e38, 1e12])
def test_actions_without_bounds_are_refused(high):
    refused("has actions without bounds", action_space=spaces.Box(-high, high, (2,), np.float64))
    nested = spaces.Dict({"gripper": spaces.Box(0, high, (1,), np.float64)})
    refused("has gripper of its actions without bounds", action_space=nested)


def test_counted_parts_are_choices_of_their_own():
    env = env_of(action_space=spaces.MultiDiscrete([2, 3], start=[5, 0]), length=0)
    env.reset()
    assert env.action_space == spaces.MultiDiscrete([2, 3])
    assert env.notes == ["Odd-v0: the 5 numbers of an action are one-hots of 2 and 3 choices."]
    for action in ([0, 0], [0, 2], [1, 1]):
        env.step(np.array(action))
    assert [a.tolist() for a in inside(env).given] == [[5, 0], [5, 2], [6, 1]]
    assert [a.tolist() for a in given(spaces.MultiBinary(2), [0, 1], [1, 1])] == [[0, 1], [1, 1]]
    pair = spaces.Tuple([spaces.Discrete(2, start=1), spaces.Dict({"x": spaces.Discrete(2)})])
    assert given(pair, [0, 1], [1, 0]) == [(1, {"x": 1}), (2, {"x": 0})]
    assert given(spaces.Discrete(1000), 999) == [999]
    assert given(spaces.MultiDiscrete([4]), 3)[0].tolist() == [3]
    assert [a.tolist() for a in given(spaces.MultiBinary(20), [1] * 20)] == [[1] * 20]  # a million together


def test_numbers_and_choices_together_are_numbers():
    space = spaces.Dict({"arm": spaces.Box(0, 2, (2,), np.float32), "grip": spaces.Discrete(3)})
    env = env_of(action_space=space)
    assert env.action_space == spaces.Box(-1, 1, (3,), np.float32)
    assert env.notes == ["Odd-v0: the 3 numbers of an action are, in order, arm (2 of Box), grip (1 of Discrete)."]
    env.reset()
    for grip in (-1, 0, 1):
        env.step(np.array([0, 1, grip]))
    assert [(a["arm"].tolist(), a["grip"]) for a in inside(env).given] == [([1, 2], 0), ([1, 2], 1), ([1, 2], 2)]


def test_too_many_choices_are_refused():
    refused("actions of 5,000 numbers", action_space=spaces.MultiDiscrete([2500, 2500]))
    refused("nothing to choose", action_space=spaces.Tuple([]))
    refused("takes actions from Text", action_space=spaces.Text(3))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(10**6),
        spaces.MultiDiscrete([10**6]),
        spaces.Dict({"which": spaces.Discrete(10**6)}),
        spaces.Box(-1, 1, (1000, 1000), np.float32),
    ],
)
def test_actions_of_a_million_numbers_are_refused(space):
    refused("takes actions of 1,000,000 numbers .* at most 4,096 are supported", action_space=space)
    fits = spaces.Discrete(4096)
    assert env_of(action_space=fits).action_space == fits
    width = spaces.Discrete(4097), spaces.Box(-1, 1, (4097,), np.float32)
    for own in width:
        with pytest.raises(UserError, match="Mine takes actions of 4,097 numbers"):
            check_spaces("Mine", spaces.Dict({"state": spaces.Box(-1, 1, (1,), np.float32)}), own)


def test_what_was_made_of_spaces_is_told_once(caplog):
    terminal.tell_once.cache_clear()
    space = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 9, (2,))})
    with caplog.at_level(logging.INFO, "worldmodels"):
        for _ in range(2):
            env_of(observation_space=space, raw={"b": 0, "a": [0, 0]})
        env_of("pixels", observation_space=spaces.Box(0, 1, (30, 20), np.uint8), raw=np.zeros((30, 20), np.uint8))
    assert caplog.messages == [
        "Odd-v0: state is, in this order, a (2), b (one-hot 2).",
        "Odd-v0: images of 30x20 are resized to 16x16, which changes their proportions; values from 0 to 1 are scaled "
        "to 0 to 255.",
    ]
    assert GymEnv("Odd-v0", obs="state").notes == []


def test_seeds_are_signed_32_bit_numbers():
    env = env_of(length=1)
    for _ in range(64):
        env.reset()
    seeds = inside(env).seeds
    assert len(set(seeds)) == 64
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_bare_assertion_is_told_with_its_place():
    with pytest.raises(UserError, match=r"cannot be made: AssertionError \(odd_envs.py, line \d+\)"):
        GymEnv("Mute-v0", obs="state")


def test_frames_within_a_step_are_counted():
    env = GymEnv("Skipping-v0", obs="state", action_repeat=2)
    env.reset()
    assert env.step(np.zeros(1))[4]["frames"] == 8
    assert any("4 frames in a step of its own" in note and "8 a decision" in note for note in env.notes)
    assert frames_per_step(make("Drawing-v0", {})) == 3
    assert frames_per_step(make("Skipping-v0", {"frameskip": 1})) == 1
    assert frames_per_step(make("CartPole-v1", {})) == 1
