"""Observations of several parts: which become frames, which numbers, and what is said of the rest."""

from __future__ import annotations

import logging

import numpy as np
import odd_envs  # noqa: F401 - registers
import pytest
from gymnasium import spaces

from worldmodels.common import terminal
from worldmodels.envs.base import check_spaces
from worldmodels.envs.gym import GymEnv
from worldmodels.envs.stack import FrameStack
from worldmodels.errors import OptionError, UserError

PARTS = {
    "front": spaces.Box(0, 255, (20, 20, 3), np.uint8),
    "wrist": spaces.Box(0, 1, (3, 10, 30), np.float32),
    "pose": spaces.Dict({"joints": spaces.Box(-1, 1, (2,)), "mode": spaces.Discrete(3)}),
    "mission": spaces.Text(20),
}
"""Two cameras of unlike kinds, nested numbers and choices, and words."""
RAW = {
    "front": np.full((20, 20, 3), 7, np.uint8),
    "wrist": np.full((3, 10, 30), 0.5, np.float32),
    "pose": {"joints": np.array([0.25, -0.5], np.float32), "mode": 2},
    "mission": "open the door",
}


def robot(obs="both", size=16, keys=None, parts=PARTS, raw=RAW) -> GymEnv:
    inner = {"observation_space": spaces.Dict(parts), "raw": raw}
    return GymEnv("Odd-v0", obs=obs, size=size, kwargs=inner, keys=keys)


def test_each_image_is_a_camera_and_all_else_the_state(caplog):
    terminal.tell_once.cache_clear()
    with caplog.at_level(logging.INFO):
        env = robot()
    check_spaces("robot", env.observation_space, env.action_space)
    seen, _ = env.reset()
    assert seen.keys() == {"pixels", "pixels_wrist", "state"}
    assert (seen["pixels"] == 7).all()
    assert (seen["pixels_wrist"] == 128).all()
    assert seen["pixels_wrist"].shape == (3, 16, 16)
    assert seen["state"].tolist() == [0.25, -0.5, 0, 0, 1]
    said = "pixels from 'front', pixels_wrist from 'wrist', state from 'pose.joints', 'pose.mode'; not used: 'mission'"
    assert said in caplog.text


def test_keys_choose_and_order_what_is_observed():
    env = robot(keys={"pixels": ["wrist"], "state": ["pose.mode", "pose.joints"]})
    seen, _ = env.reset()
    assert seen.keys() == {"pixels", "state"}
    assert (seen["pixels"] == 128).all()
    assert seen["state"].tolist() == [0, 0, 1, 0.25, -0.5]
    swapped, _ = robot(obs="pixels", keys={"pixels": ["wrist", "front"]}).reset()
    assert (swapped["pixels_front"] == 7).all()
    alone, _ = robot(obs="state").reset()
    assert alone.keys() == {"state"}


VECTOR = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("parts", "both"),
    [
        ({"a.b": VECTOR, "a": spaces.Dict({"b": VECTOR})}, "a.b"),
        ({"a.0": VECTOR, "a": spaces.Tuple((VECTOR, VECTOR))}, "a.0"),
        ({"b": VECTOR, "": spaces.Dict({"b": VECTOR})}, "b"),
        ({"a": spaces.Dict({"b.c": VECTOR, "b": spaces.Dict({"c": PARTS["front"]})})}, "a.b.c"),
        ({1: VECTOR, "x": VECTOR, "1": VECTOR}, "1"),
    ],
)
@pytest.mark.parametrize("obs", ["state", "both"])
def test_two_parts_of_one_name_are_refused(parts, both, obs):
    space = spaces.Dict()
    space.spaces = parts  # in any order: the constructor cannot sort numbers among words
    with pytest.raises(UserError, match=f"Odd-v0 observes two parts that are both called '{both}', .* rename one"):
        GymEnv("Odd-v0", obs=obs, size=16, kwargs={"observation_space": space})


@pytest.mark.parametrize("wanted", [[0, 2], ["0", "2"], [2, 0], ["2", 0], [1]])
def test_parts_of_a_tuple_are_called_by_their_numbers(wanted):
    """In a nested one too, where the number stands behind a dot."""
    space, raw = spaces.Tuple((VECTOR, spaces.Discrete(3), VECTOR)), (np.full(2, 0.25), 2, np.full(2, 0.75))
    values = {"0": [0.25, 0.25], "1": [0, 0, 1], "2": [0.75, 0.75]}
    expected = [number for part in wanted for number in values[str(part)]]
    env = GymEnv("Odd-v0", obs="state", kwargs={"observation_space": space, "raw": raw}, keys={"state": wanted})
    assert env.reset()[0]["state"].tolist() == expected
    within = {"observation_space": spaces.Dict({"arm": space}), "raw": {"arm": raw}}
    env = GymEnv("Odd-v0", obs="state", kwargs=within, keys={"state": [f"arm.{part}" for part in wanted]})
    assert env.reset()[0]["state"].tolist() == expected


@pytest.mark.parametrize(
    ("obs", "keys", "said"),
    [
        ("state", {"pixels": ["front"]}, "keys.pixels=[front] is without use with obs=state: .* obs=pixels or both"),
        (
            "pixels",
            {"state": ["pose.mode"]},
            "keys.state=[pose.mode] is without use with obs=pixels: .* obs=state or both",
        ),
        ("state", {"pixels": []}, "keys.pixels=[] is without use with obs=state"),
        ("both", {"pixels": ["front", "front"]}, "keys.pixels=[front, front] names 'front' more than once"),
        ("both", {"state": ["pose.mode", "pose.joints", "pose.mode"]}, "names 'pose.mode' more than once"),
    ],
)
def test_keys_without_use_and_doubled_ones_are_refused(obs, keys, said):
    with pytest.raises(OptionError, match=said.replace("[", r"\[").replace("]", r"\]")):
        robot(obs=obs, keys=keys)


@pytest.mark.parametrize(
    ("keys", "option", "said"),
    [
        ({"pixels": ["frontt"]}, "keys.pixels", "Did you mean 'front'"),
        ({"pixels": ["pose.joints"]}, "keys.pixels", "is no image"),
        ({"state": ["pose"]}, "keys.state", "is not observed"),
    ],
)
def test_keys_that_are_not_observed_are_refused(keys, option, said):
    with pytest.raises(OptionError) as refused:
        robot(keys=keys)
    assert refused.value.option == option
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("parts", "obs", "said"),
    [
        ({"mission": spaces.Text(5)}, "state", "Text"),
        ({"mission": spaces.Text(5), "other": spaces.Text(5)}, "state", "nothing of"),
        ({"a b": PARTS["front"], "a.b": PARTS["front"], "a_b": PARTS["front"]}, "pixels", "would have one name"),
    ],
)
def test_parts_that_cannot_be_observed_are_refused(parts, obs, said):
    with pytest.raises(UserError, match=said) as refused:
        robot(obs=obs, parts=parts, raw={})
    assert len(str(refused.value)) < 300


def test_a_tuple_has_parts_by_number():
    space, raw = spaces.Tuple([PARTS["front"], spaces.Discrete(2)]), (RAW["front"], 1)
    env = GymEnv("Odd-v0", obs="both", size=16, kwargs={"observation_space": space, "raw": raw})
    seen, _ = env.reset()
    assert (seen["pixels"] == 7).all()
    assert seen["state"].tolist() == [0, 1]


def test_a_stack_is_of_each_camera():
    env = FrameStack(robot(), 2)
    seen, _ = env.reset()
    assert seen["pixels"].shape == seen["pixels_wrist"].shape == (6, 16, 16)
    taken = env.snapshot()
    env.step(np.zeros(env.action_space.shape, np.float32))
    again = env.restore(taken)
    assert all(np.array_equal(again[key], seen[key]) for key in seen)
