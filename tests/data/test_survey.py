"""What is told of a recording before it is copied: its notes, the range of actions, which row actions belong to."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
import torch

from worldmodels.data.import_dataset import open_dataset
from worldmodels.data.readers.base import recording
from worldmodels.data.replay import Replay
from worldmodels.data.survey import Survey, alignment
from worldmodels.errors import UserError

SPEC = {
    "state": ((2,), torch.float32),
    "action": ((2,), torch.float32),
    "reward": ((), torch.float32),
    "is_first": ((), torch.bool),
    "is_last": ((), torch.bool),
    "is_terminal": ((), torch.bool),
}


def walk(rows=200, late=0, memory=0.0, seed=0, scale=1.0):
    """A walk whose every step is the action of its row; stored ``late`` rows late; actions remember the one before."""
    random = np.random.default_rng(seed)
    action = random.uniform(-1, 1, (rows, 2)).astype(np.float32)
    for t in range(1, rows):
        action[t] = memory * action[t - 1] + (1 - memory) * action[t]
    action[0] = 0
    state = np.cumsum(action + random.normal(0, 0.1, action.shape), axis=0).astype(np.float32)
    return {"state": state, "action": np.roll(action, late, axis=0) * scale, "reward": np.zeros(rows, np.float32)}


def found(columns):
    survey = Survey()
    survey.add(recording("toy", {"state": columns["state"]}, columns["action"], columns["reward"], False))
    return alignment(survey._shares())


@pytest.mark.parametrize(
    ("late", "warned", "words"),
    [
        (0, False, "follows the actions of the same row, as it must be here"),
        (-1, True, "follows the actions of the row before: they may stand one row early"),
        (1, True, "follows the actions of the row behind: they may stand one row late"),
    ],
)
def test_which_row_actions_belong_to_is_told(late, warned, words):
    said = found(walk(late=late))
    assert said[0] == warned
    assert words in said[1]
    assert len(said[1]) < 300


def test_what_cannot_be_told_apart_is_said_to_be_plausible():
    warned, said = found(walk(rows=400, memory=0.97))
    assert not warned
    assert "the same and the row behind are plausible" in said or "the row before and the same" in said
    still = walk()
    still["state"] = np.random.default_rng(1).normal(size=still["state"].shape).astype(np.float32)
    assert "cannot be seen" in found(still)[1]
    assert "too few rows of a kind" in found(walk(rows=12))[1]


def test_what_acts_late_is_no_false_alarm():
    """As in a running cheetah: an action moves things in two rows, so both are plausible, and none is a warning."""
    columns = walk(rows=400)
    columns["state"] = np.cumsum(columns["action"] + 1.1 * np.roll(columns["action"], 1, axis=0), axis=0)
    warned, said = found(columns)
    assert not warned
    assert "the row before and the same are plausible" in said


def test_datasets_of_other_widths_are_no_traceback():
    """They are refused later, by name."""
    survey = Survey()
    for width in (1, 2):
        survey.add(recording("toy", {"state": np.ones((50, 2))}, np.ones((50, width)), np.zeros(50), False))
    survey.tell("toy")
    assert alignment(survey._shares()) == (False, "too few rows of a kind to see which row actions belong to")


def test_frames_tell_where_actions_belong_too():
    """A square that moves with the action, early by a row."""
    steps = np.random.default_rng(0).integers(-1, 2, 300)
    place = np.clip(8 + np.cumsum(steps), 2, 24)
    frames = np.zeros((300, 3, 32, 32), np.uint8)
    for t, x in enumerate(place):
        frames[t, :, :, : x + 4] = 255
    action = np.roll(np.diff(place, prepend=place[0]), -1)[:, None].astype(np.float32)
    survey = Survey()
    survey.add(recording("toy", {"pixels": frames}, action, np.zeros(300), False))
    assert alignment(survey._shares())[0]


def test_a_copy_tells_what_was_found(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("worldmodels"), "propagate", True)
    (tmp_path / "set").mkdir()
    for number in range(3):
        np.savez(tmp_path / "set" / f"{number}.npz", **walk(seed=number), extra=np.zeros(200))
    with caplog.at_level(logging.INFO):
        open_dataset(str(tmp_path / "set"), SPEC, tmp_path / "replay", 1.0, False, 0)
    assert "3 episodes, 600 rows" in caplog.text
    assert caplog.text.count("fields that are not read: [extra]") == 1
    assert "0.npz, rows 0 to 199 (and 2 more): fields that are not read" in caplog.text
    assert "of [-1, 1] here" in caplog.text
    assert "as it must be here" in caplog.text
    caplog.clear()
    np.savez(tmp_path / "small.npz", **walk(scale=np.array([1, 0.4], np.float32)))
    open_dataset(str(tmp_path / "small.npz"), SPEC, tmp_path / "small", 1.0, False, 0)
    assert "number 1 of 2 never exceeds 0.4: if that is the bound" in caplog.text
    np.savez(tmp_path / "wide.npz", **walk(scale=np.array([1, 4], np.float32)))
    with pytest.raises(UserError, match=r"'action' reaches 4 in number 1 of 2, and actions here lie in \[-1, 1\]"):
        open_dataset(str(tmp_path / "wide.npz"), SPEC, tmp_path / "wide", 1.0, False, 0)


def test_a_list_may_mix_layouts(tmp_path):
    """A recording of ours, Dreamer's npz, V-D4RL's and D4RL's HDF5, and a folder of two of those."""
    folder = tmp_path / "both"
    folder.mkdir()
    made = [walk(rows=10 + number, seed=number) for number in range(5)]
    np.savez(tmp_path / "0.npz", **made[0])
    open_dataset(str(tmp_path / "0.npz"), SPEC, tmp_path / "own", 1.0, False, 0)
    np.savez(tmp_path / "1.npz", **made[1], is_first=np.arange(11) == 0)
    for path, rows in ((tmp_path / "2.h5", made[2]), (folder / "3.hdf5", made[3])):
        with h5py.File(path, "w") as file:
            file["observations"], file["next_observations"] = rows["state"][:-1], rows["state"][1:]
            file["actions"], file["rewards"] = rows["action"][1:], rows["reward"][1:]
            file["terminals"], file["timeouts"] = np.zeros((2, len(rows["state"]) - 1), bool)
    np.savez(folder / "4.npz", **{key: value.astype(np.float64) for key, value in made[4].items()})
    names = [str(tmp_path / "own"), str(tmp_path / "1.npz"), str(tmp_path / "2.h5"), str(folder)]
    replay = open_dataset(names, SPEC, tmp_path / "replay", 1.0, False, 0)
    spans = replay.episode_spans()
    assert [length for _, length, _ in spans] == [10, 11, 12, 13, 14]
    for (first, length, env), rows, skill in zip(spans, made, (0, 1, 2, 3, 3), strict=True):
        copied = replay.episode_from(first, length, env)
        np.testing.assert_array_equal(copied["action"], rows["action"])
        np.testing.assert_array_equal(copied["state"], rows["state"])
        assert set(copied["skill"].tolist()) == {skill}
    assert isinstance(replay, Replay)
