"""Minari's datasets: spaces of every kind, goals, images."""

from __future__ import annotations

import gymnasium
import h5py  # noqa: F401 - asks uname for the processor when first imported, which no test may
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from worldmodels.data.readers import read
from worldmodels.data.readers.spaces import flat
from worldmodels.errors import UserError

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
    return np.stack([np.asarray(sample) for sample in samples])


def recorded(tmp_path, monkeypatch, seen=STATE, act=UNIT, steps=5, change=lambda observations: None):
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
        terminations=np.arange(steps) == steps - 1,
        truncations=np.zeros(steps, bool),
    )
    minari.create_dataset_from_buffers("toy/spaces-v0", [buffer], action_space=act, observation_space=seen)
    [episode] = read("minari:toy/spaces-v0")
    return episode, observations, actions


def test_choices_are_read_one_hot_side_by_side(tmp_path, monkeypatch):
    episode, _, actions = recorded(tmp_path, monkeypatch, act=spaces.MultiDiscrete([3, 2]))
    assert episode.action.shape == (6, 5)
    assert not episode.action[0].any()
    np.testing.assert_array_equal(episode.action[1:, :3].argmax(1), actions[:, 0])
    np.testing.assert_array_equal(episode.action[1:, 3:].argmax(1), actions[:, 1])
    assert episode.notes == ("actions of MultiDiscrete([3 2]) are read side by side, choices one-hot",)


def test_switches_and_mixtures_are_read_side_by_side(tmp_path, monkeypatch):
    episode, _, actions = recorded(tmp_path / "1", monkeypatch, act=spaces.MultiBinary(4))
    np.testing.assert_array_equal(episode.action[1:], actions)
    mixed = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 4, (1,), np.float32)})
    episode, _, actions = recorded(tmp_path / "2", monkeypatch, act=mixed)
    np.testing.assert_allclose(episode.action[1:, 0], actions["a"][:, 0] / 2 - 1, atol=1e-6)
    np.testing.assert_array_equal(episode.action[1:, 1:].argmax(1), actions["b"])


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
    assert "[camera, joints]" in episode.notes[0]
    several = spaces.Dict({"left": grey, "right": grey})
    with pytest.raises(UserError, match=r"shows several images, \[left, right\]"):
        recorded(tmp_path / "3", monkeypatch, seen=several)


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


def test_spaces_without_a_flat_form_are_refused():
    """Also where they are part of another one."""
    for space, value in ((spaces.Text(5), ["a"]), (spaces.Dict({"said": spaces.Text(5)}), {"said": ["a"]})):
        with pytest.raises(UserError, match=r"toy: the space Text\(.* has no form of flat numbers"):
            flat("toy", space, value)
    with pytest.raises(UserError, match="toy: a choice lies outside the 3 of its space"):
        flat("toy", spaces.Discrete(3, start=1), np.array([0, 1]))


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
