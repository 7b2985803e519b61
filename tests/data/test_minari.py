"""Minari's datasets: spaces of every kind, goals, images."""

from __future__ import annotations

import json

import gymnasium
import h5py  # asks uname for the processor when first imported, which no test may
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from worldmodels.data.readers import read
from worldmodels.data.readers.minari import EARLY
from worldmodels.data.readers.spaces import acted, flat
from worldmodels.envs.base import kind_of
from worldmodels.envs.gym.actions import Actions
from worldmodels.envs.gym.keys import Observations
from worldmodels.envs.gym.parts import values_of
from worldmodels.errors import UserError
from worldmodels.nets.choices import indices, sizes_of

STATE, UNIT = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)


def test_minari_datasets_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env, buffers = gymnasium.make("CartPole-v1"), []
    for number in range(3):
        steps = 5 + number
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=number,
                observations=np.random.default_rng(number).normal(size=(steps + 1, 4)).astype(np.float32),
                actions=np.arange(steps) % 2,
                rewards=np.ones(steps),
                terminations=np.arange(steps) == steps - 1,
                truncations=np.zeros(steps, bool),
            )
        )
    minari.create_dataset_from_buffers("toy/cartpole-v0", buffers, env=env)
    found = list(read("minari:toy/cartpole-v0"))
    assert len(found) == 3
    for episode in found:
        assert episode.observations["state"].shape == (len(episode.action), 4)
        assert episode.action.shape[1] == 2
        assert not episode.action[0].any()
        assert episode.action[1:].argmax(1).tolist() == [t % 2 for t in range(len(episode.action) - 1)]
        assert episode.terminal
        assert episode.reward.tolist() == [0.0] + [1.0] * (len(episode.action) - 1)
    with pytest.raises(UserError, match="minari download toy/cartpol-v0"):
        list(read("minari:toy/cartpol-v0"))


def test_minari_images_goals_and_bounds(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    low, high = np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)
    numbers = lambda n: spaces.Box(-np.inf, np.inf, (n,), np.float32)  # noqa: E731
    kinds = {
        "goals": spaces.Dict({"observation": numbers(4), "achieved_goal": numbers(2), "desired_goal": numbers(2)}),
        "images": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    }
    for name, observed in kinds.items():
        observed.seed(0)
        frames = [observed.sample() for _ in range(4)]
        stacked = {key: np.stack([frame[key] for frame in frames]) for key in observed} if name == "goals" else None
        if stacked:
            stacked["achieved_goal"] = stacked["observation"][:, :2]
        buffer = EpisodeBuffer(
            id=0,
            seed=0,
            observations=np.stack(frames) if stacked is None else stacked,
            actions=np.array([low, (low + high) / 2, high]),
            rewards=np.arange(3.0),
            terminations=np.zeros(3, bool),
            truncations=np.arange(3) == 2,
        )
        minari.create_dataset_from_buffers(
            f"toy/{name}-v0", [buffer], action_space=spaces.Box(low, high), observation_space=observed
        )
        [episode] = read(f"minari:toy/{name}-v0")
        assert episode.action.tolist() == [[0, 0], [-1, -1], [0, 0], [1, 1]]  # in units of the bounds
        assert episode.reward.tolist() == [0, 0, 1, 2]
        assert not episode.terminal
        if name == "images":
            np.testing.assert_array_equal(episode.observations["pixels"], np.stack(frames).transpose(0, 3, 1, 2))
        else:
            np.testing.assert_array_equal(episode.observations["state"], stacked["observation"])
            np.testing.assert_array_equal(episode.observations["goal_state"][:, :2], stacked["desired_goal"])
            assert not episode.observations["goal_state"][:, 2:].any()  # at rest


def stacked(space, samples):
    if isinstance(space, spaces.Dict):
        return {key: stacked(space[key], [sample[key] for sample in samples]) for key in space}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(space[k], [sample[k] for sample in samples]) for k in range(len(space)))
    return list(samples) if isinstance(space, spaces.Text) else np.stack([np.asarray(sample) for sample in samples])


def recorded(tmp_path, monkeypatch, seen=STATE, act=UNIT, steps=5, change=lambda observations: None, ended=None):
    """The one episode of a dataset with these spaces, and what was recorded."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    seen.seed(0), act.seed(0)
    observations = stacked(seen, [seen.sample() for _ in range(steps + 1)])
    change(observations)
    actions = stacked(act, [act.sample() for _ in range(steps)])
    buffer = EpisodeBuffer(
        id=0,
        seed=0,
        observations=observations,
        actions=actions,
        rewards=np.ones(steps),
        terminations=np.arange(steps) == steps - 1 if ended is None else ended,
        truncations=np.zeros(steps, bool),
    )
    minari.create_dataset_from_buffers("toy/spaces-v0", [buffer], action_space=act, observation_space=seen)
    [episode] = read("minari:toy/spaces-v0")
    return episode, observations, actions


def decoded(act, rows):
    """What the environment is given for rows of a recording."""
    takes = Actions("toy", act)
    discrete, dim = kind_of(takes.space)
    given = torch.from_numpy(rows)
    if discrete:
        given = indices(given, sizes_of(dim, discrete))
    return [takes.inner(np.atleast_1d(row)) for row in given.numpy()]


ACTIONS = {
    "choice": spaces.Discrete(3),
    "choice from -1": spaces.Discrete(3, start=-1),
    "one of one": spaces.Discrete(1),
    "choices": spaces.MultiDiscrete([2, 2]),
    "unequal choices from 2": spaces.MultiDiscrete([[3, 2], [1, 4]], start=[[2, 2], [2, 2]]),
    "switches": spaces.MultiBinary(4),
    "switches in a square": spaces.MultiBinary((2, 2)),
    "numbers": spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32)),
    "numbers in a square": spaces.Box(-3, 7, (2, 2), np.float32),
    "whole numbers": spaces.Box(0, 3, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "tuple of choices": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
    "mixed tuple": spaces.Tuple((spaces.Discrete(3), UNIT)),
    "mixed dict": spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 4, (1,), np.float32)}),
    "dict in its own order": spaces.Dict([("z", spaces.Box(5, 6, (1,))), ("a", spaces.Box(0, 100, (1,)))]),
    "nested": spaces.Dict([("z", spaces.Tuple((UNIT, spaces.Discrete(2)))), ("a", spaces.MultiDiscrete([4, 3]))]),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_are_those_that_the_environment_takes(tmp_path, monkeypatch, kind):
    """A row, given to the environment, is the action that was recorded."""
    act = ACTIONS[kind]
    episode, _, actions = recorded(tmp_path, monkeypatch, act=act, steps=40)
    takes = Actions("toy", act)
    assert episode.action.shape == (41, kind_of(takes.space)[1])
    assert not episode.action[0].any()
    assert np.abs(episode.action).max() <= 1
    given = list(values_of("toy", act, stacked(act, decoded(act, episode.action[1:]))))
    for one, other in zip(given, values_of("toy", act, actions), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5)
    assert list(episode.notes) == ([takes.note.removeprefix("toy: ")] if takes.note else [])


@pytest.mark.parametrize("high", [1e38, np.finfo(np.float32).max, 1e9, np.inf])
def test_bounds_that_stand_for_none_are_none(tmp_path, monkeypatch, high):
    """Actions are as they are, not zero, and that is told."""
    act = spaces.Box(-high, high, (1,), np.float32)
    given = iter((-1, 0.5, 1, 0.25, 0))
    monkeypatch.setattr(act, "sample", lambda: np.array([next(given)], np.float32))
    episode, _, _ = recorded(tmp_path, monkeypatch, act=act)
    assert episode.action[:, 0].tolist() == [0, -1, 0.5, 1, 0.25, 0]
    assert "actions have no bounds" in episode.notes[0]
    with pytest.raises(UserError, match="has a of its actions without bounds"):
        recorded(tmp_path / "part", monkeypatch, act=spaces.Dict({"a": spaces.Box(-high, high, (1,), np.float32)}))


def test_actions_that_no_environment_takes_are_refused(tmp_path, monkeypatch):
    for number, (act, said) in enumerate(
        (
            (spaces.Text(5), r"takes actions from Text\("),
            (spaces.MultiDiscrete([4000, 200]), "actions of 4,200 numbers .* 4,096 are supported"),
            (spaces.Box(0, 1, (0,), np.float32), "in which there is nothing to choose"),
        )
    ):
        with pytest.raises(UserError, match=said) as raised:
            recorded(tmp_path / str(number), monkeypatch, act=act)
        assert len(str(raised.value)) < 300
    with pytest.raises(UserError, match=r"holds the action 0, which is not in Discrete\(3, start=1\)"):
        acted("toy", spaces.Discrete(3, start=1), np.array([1, 0]), 2)
    with pytest.raises(UserError, match=r"holds the action \[0 2\], which is not in MultiDiscrete"):
        acted("toy", spaces.MultiDiscrete([2, 2]), np.array([[0, 1], [0, 2]]), 2)


@pytest.mark.parametrize(
    "seen",
    [
        spaces.Dict([("z", spaces.Box(5, 6, (1,))), ("a", spaces.Box(-6, -5, (1,)))]),
        spaces.Dict([("b", spaces.Dict([("y", UNIT), ("x", STATE)])), ("a", spaces.Discrete(3, start=1))]),
        spaces.Tuple((STATE, spaces.Dict([("q", spaces.MultiBinary(2)), ("c", spaces.MultiDiscrete([2, 3]))]))),
        spaces.Dict([("z", spaces.Text(5)), ("y", spaces.Box(0, 1, (0,))), ("a", STATE)]),
        spaces.Box(0, 255, (12, 9), np.uint8),
        spaces.Box(0, 1, (16, 16), np.uint8),
        spaces.Box(0, 10, (16, 16, 3), np.uint8),
        spaces.Box(0, 1, (16, 12, 3), np.float32),
        spaces.Box(-1, 1, (3, 16, 12), np.float32),
        spaces.Box(0, 255, (3, 18, 16), np.uint8),
        spaces.Box(0, 255, (4, 18, 16), np.uint8),
        spaces.Box(0, 255, (16, 16, 4), np.uint8),
        spaces.Box(0, 255, (16, 16, 2), np.uint8),
        spaces.Tuple((spaces.Box(0, 255, (16, 16, 3), np.uint8), STATE)),
        spaces.Dict({"cams": spaces.Dict({"f": spaces.Box(0, 255, (16, 16, 3), np.uint8)}), "p": STATE}),
        spaces.Dict({name: spaces.Box(0, 255, (16, 16, 3), np.uint8) for name in ("left", "right")}),
    ],
    ids=str,
)
def test_what_is_seen_is_what_the_environment_observes(tmp_path, monkeypatch, seen):
    """For each env.obs that it takes, in the order of its own spaces, at the sides that were recorded."""
    episode, observations, _ = recorded(tmp_path, monkeypatch, seen=seen)
    rows = len(episode.action)
    found = set()
    for obs in ("pixels", "state", "both"):
        try:
            reads = Observations("toy", seen, obs, None)
        except UserError:
            continue
        for t in range(rows):
            for key, value in reads.read(row_of(seen, observations, t)).items():
                np.testing.assert_array_equal(episode.observations[key][t], value)
                found.add(key)
    assert found == set(episode.observations)


def row_of(space, values, t):
    if isinstance(space, spaces.Dict):
        return {key: row_of(space[key], values[key], t) for key in space}
    if isinstance(space, spaces.Tuple):
        return tuple(row_of(part, value, t) for part, value in zip(space, values, strict=True))
    return values[t]


def test_the_order_of_what_is_seen_is_told(tmp_path, monkeypatch):
    seen = spaces.Dict([("z", STATE), ("a", spaces.Discrete(3)), ("said", spaces.Text(5))])
    episode, _, _ = recorded(tmp_path, monkeypatch, seen=seen)
    assert episode.notes == ("state is, in this order, z (3), a (one-hot 3)", "fields that are not read: [said]")


def test_a_board_may_be_an_image_or_numbers(tmp_path, monkeypatch):
    """env.obs says which; one too small for an image is numbers alone."""
    episode, observations, _ = recorded(tmp_path / "1", monkeypatch, seen=spaces.Box(0, 2, (4, 3), np.uint8))
    np.testing.assert_array_equal(episode.observations["state"], observations.reshape(6, 12))
    np.testing.assert_array_equal(episode.observations["pixels"][:, 0], np.rint(observations * 127.5))
    assert any("may be an image or numbers" in note for note in episode.notes)
    for number, shape in enumerate(((2, 3), (1, 9), (2, 2, 3))):
        seen = spaces.Box(0, 1, shape, np.float32)
        episode, _, _ = recorded(tmp_path / f"2{number}", monkeypatch, seen=seen)
        assert list(episode.observations) == ["state"]


def test_nested_observations_are_one_state(tmp_path, monkeypatch):
    seen = spaces.Dict({"observation": spaces.Dict({"a": STATE, "b": spaces.Discrete(4)})})
    episode, observations, _ = recorded(tmp_path / "1", monkeypatch, seen=seen)
    np.testing.assert_array_equal(episode.observations["state"][:, :3], observations["observation"]["a"])
    np.testing.assert_array_equal(episode.observations["state"][:, 3:].argmax(1), observations["observation"]["b"])
    episode, observations, _ = recorded(tmp_path / "2", monkeypatch, seen=spaces.Tuple((STATE, UNIT)))
    np.testing.assert_array_equal(episode.observations["state"], np.concatenate(observations, axis=1))


def test_images_are_found_in_every_shape_and_place(tmp_path, monkeypatch):
    grey = spaces.Box(0, 255, (16, 12), np.uint8)
    episode, observations, _ = recorded(tmp_path / "1", monkeypatch, seen=grey)
    assert episode.observations["pixels"].shape == (6, 3, 16, 12)
    for channel in range(3):
        np.testing.assert_array_equal(episode.observations["pixels"][:, channel], observations)
    seen = spaces.Dict({"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8), "joints": STATE})
    episode, observations, _ = recorded(tmp_path / "2", monkeypatch, seen=seen)
    np.testing.assert_array_equal(episode.observations["pixels"], observations["camera"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(episode.observations["state"], observations["joints"])
    assert episode.notes == ("frames are [camera]: the first is 'pixels'",)
    several = spaces.Dict({"left": grey, "right": grey})
    episode, observations, _ = recorded(tmp_path / "3", monkeypatch, seen=several)
    assert list(episode.observations) == ["pixels", "pixels_right"]
    np.testing.assert_array_equal(episode.observations["pixels_right"][:, 0], observations["right"])
    assert episode.notes == ("frames are [left, right]: the first is 'pixels'",)


def test_a_number_that_cannot_vary_is_zero(tmp_path, monkeypatch):
    act = spaces.Box(np.array([-1, 5], np.float32), np.array([1, 5], np.float32))
    episode, _, actions = recorded(tmp_path, monkeypatch, act=act)
    np.testing.assert_allclose(episode.action[1:, 0], actions[:, 0], atol=1e-6)
    assert not episode.action[:, 1].any()


def test_a_box_without_axes_is_one_number(tmp_path, monkeypatch):
    episode, observations, actions = recorded(
        tmp_path, monkeypatch, spaces.Box(-3, 3, (), np.float32), spaces.Box(-2, 2, (), np.float32)
    )
    np.testing.assert_allclose(episode.action[1:, 0], actions / 2, atol=1e-6)
    np.testing.assert_array_equal(episode.observations["state"][:, 0], observations)


def test_spaces_that_are_no_numbers_are_refused(tmp_path, monkeypatch):
    """Text alone, and numbers of which there are none."""
    for number, (seen, said) in enumerate(
        (
            (spaces.Text(5), r"episode 0 observes Text\(.* only images, numbers and choices"),
            (spaces.Dict({"a": spaces.Text(5), "b": spaces.Text(5)}), "nothing of it is read"),
            (spaces.Box(0, 1, (0,), np.float32), "0 numbers as a vector"),
        )
    ):
        with pytest.raises(UserError, match=said) as raised:
            recorded(tmp_path / str(number), monkeypatch, seen=seen)
        assert len(str(raised.value)) < 300
    with pytest.raises(UserError, match=r"toy observed \[?0\]?, which is not in Discrete\(3, start=1\)"):
        flat("toy", spaces.Discrete(3, start=1), np.array([1, 0]), 2)


def test_goals_that_are_no_part_of_the_state_are_refused(tmp_path, monkeypatch):
    """AntMaze's state does not hold where the ant is, Fetch's begins with the gripper."""
    seen = spaces.Dict({"observation": STATE, "achieved_goal": UNIT, "desired_goal": UNIT, "time": UNIT})

    def same(observations):
        observations["achieved_goal"] = observations["observation"][:, :2].copy()

    def last_row_differs(observations):
        same(observations)
        observations["achieved_goal"][-1] += 0.5

    episode, observations, _ = recorded(tmp_path / "1", monkeypatch, seen=seen, change=same)
    np.testing.assert_array_equal(episode.observations["goal_state"][:, :2], observations["desired_goal"])
    assert episode.notes == ("fields that are not read: [time]",)
    for number, change in enumerate((lambda observations: None, last_row_differs)):
        with pytest.raises(UserError, match="'achieved_goal' is not the first 2 numbers of 'observation'"):
            recorded(tmp_path / f"2{number}", monkeypatch, seen=seen, change=change)


def test_ends_within_an_episode_are_told(tmp_path, monkeypatch):
    """They do not cut it: its last row says how it ended."""
    for number, (ended, terminal) in enumerate((([0, 1, 0, 0, 1], True), ([0, 0, 1, 0, 0], False))):
        episode, _, _ = recorded(tmp_path / str(number), monkeypatch, ended=np.array(ended, bool))
        assert (len(episode.action), episode.terminal) == (6, terminal)
        assert EARLY in episode.notes
    episode, _, _ = recorded(tmp_path / "plain", monkeypatch)
    assert episode.notes == ()


def test_episodes_that_are_not_whole_are_named(tmp_path, monkeypatch):
    recorded(tmp_path, monkeypatch)
    [path] = tmp_path.rglob("*.hdf5")
    for key, said in (("actions", "cannot be read: "), ("rewards", "cannot be read: ")):
        with h5py.File(path, "a") as file:
            kept = file["episode_0"][key][:]
            del file["episode_0"][key]
        with pytest.raises(UserError, match=rf"minari:toy/spaces-v0 {said}"):
            list(read("minari:toy/spaces-v0"))
        with h5py.File(path, "a") as file:
            file["episode_0"][key] = kept[:-1]
        with pytest.raises(UserError, match="rows"):
            list(read("minari:toy/spaces-v0"))
        with h5py.File(path, "a") as file:
            del file["episode_0"][key]
            file["episode_0"][key] = kept
    assert len(list(read("minari:toy/spaces-v0"))) == 1


@pytest.mark.parametrize("lacking", ["data_format", "observation_space", "action_space"])
def test_minari_metadata_that_lacks_something_is_named(tmp_path, monkeypatch, lacking):
    recorded(tmp_path, monkeypatch)
    [path] = tmp_path.rglob("metadata.json")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != lacking}))
    with pytest.raises(UserError, match=r"minari:toy/spaces-v0 (cannot be read|is not on this machine)"):
        list(read("minari:toy/spaces-v0"))
