"""What a reader may assume of a file, and the one sentence that says what it found otherwise."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
from recorded_rows import arrivals, at, departures, ogbench, shape_of, write

from worldmodels.data.readers import read
from worldmodels.data.readers.base import Recording, recording
from worldmodels.data.readers.ends import FILLED
from worldmodels.data.readers.rows import UNCUT
from worldmodels.data.survey import Survey
from worldmodels.errors import UserError

BOTH = pytest.mark.parametrize("suffix", [".npz", ".hdf5"])


def refusal(path):
    """The sentence that a file is refused with, without the folder it is in."""
    with pytest.raises(UserError) as raised:
        list(read(str(path)))
    said = str(raised.value).replace(str(path), path.name).replace(str(path.parent), "folder")
    assert len(said) < 300
    assert path.name in said
    return said


@BOTH
@pytest.mark.parametrize("field", ["actions", "rewards", "observations", "next_observations"])
@pytest.mark.parametrize("count", [6, 18])
def test_fields_of_other_lengths_are_refused(tmp_path, suffix, field, count):
    """A surplus is not dropped in silence."""
    columns = departures(timeouts=at(8), next_observations=np.arange(1, 10.0)[:, None])
    columns[field] = np.resize(columns[field], (count, *columns[field].shape[1:]))
    said = refusal(tmp_path / write(tmp_path / f"a{suffix}", columns).rpartition("/")[2])
    assert f"'{field}'" in said or "different numbers of rows" in said


@BOTH
@pytest.mark.parametrize("field", ["reward", "state", "image"])
def test_a_surplus_of_arrivals_is_refused(tmp_path, suffix, field):
    columns = arrivals(image=np.zeros((9, 8, 8, 3), np.uint8))
    columns[field] = np.concatenate([columns[field]] * 2)
    write(tmp_path / f"a{suffix}", columns)
    assert f"'{field}'" in refusal(tmp_path / f"a{suffix}")


@BOTH
@pytest.mark.parametrize("shape", [(9, 2), (9, 1, 1), (9,)])
def test_next_observations_have_the_shape_of_observations(tmp_path, suffix, shape):
    columns = departures(timeouts=at(8), observations=np.zeros((9, 3)), next_observations=np.zeros(shape))
    write(tmp_path / f"a{suffix}", columns)
    assert "'next_observations' is of shape" in refusal(tmp_path / f"a{suffix}")


@BOTH
@pytest.mark.parametrize("width", [0, 2, 9])
def test_rewards_are_one_number_a_row(tmp_path, suffix, width):
    for name, columns in (("rewards", departures(timeouts=at(8))), ("reward", arrivals())):
        write(tmp_path / f"{name}{suffix}", columns | {name: np.zeros((9, width))})
        assert f"'{name}' is " in refusal(tmp_path / f"{name}{suffix}")


@BOTH
def test_one_row_of_d4rl_is_one_episode(tmp_path, suffix):
    columns = departures(1, next_observations=np.ones((1, 1)))
    del columns["timeouts"]
    [episode] = read(write(tmp_path / f"a{suffix}", columns))
    assert shape_of([episode]) == [(2, False, False)]
    assert episode.observations["state"][:, 0].tolist() == [0, 1]


@BOTH
@pytest.mark.parametrize("name", ["is_first", "is_last", "is_terminal", "timeouts", "done", "discount", "step_type"])
@pytest.mark.parametrize("value", [b"False", b"0", b""])
def test_flags_are_no_text(tmp_path, suffix, name, value):
    """Every text but an empty one would count as true."""
    write(tmp_path / f"a{suffix}", arrivals() | {name: np.array([value] * 9)})
    assert f"field '{name}' is of type" in refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "value"),
    [("is_last", -1), ("timeouts", 2), ("done", 0.5), ("is_terminal", 255), ("step_type", 3), ("step_type", 0.5)],
)
def test_flags_are_0_or_1(tmp_path, name, value):
    flags = np.zeros(9)
    flags[4] = value
    write(tmp_path / "a.npz", arrivals() | {name: flags})
    said = refusal(tmp_path / "a.npz")
    assert f"field '{name}' is {value:g} in row 4" in said


def test_text_flags_of_neighbours_are_no_traceback(tmp_path):
    write(tmp_path / "0.npz", arrivals(is_first=at()))
    write(tmp_path / "1.npz", arrivals() | {"is_first": np.array(["True"] * 9)})
    write(tmp_path / "2.npz", arrivals() | {"step_type": np.array(["FIRST"] * 9)})
    found = read(str(tmp_path))
    assert len(next(found).action) == 9
    with pytest.raises(UserError, match=r"1\.npz: field 'is_first' is of type <U4"):
        next(found)


@pytest.mark.parametrize("name", ["is_terminal", "terminated", "discount"])
def test_ends_for_good_alone_are_told_to_be_so(tmp_path, name):
    """Where time ran out is not known then: D4RL's layout refuses that, and Dreamer's says it."""
    flags = at(4) if name != "discount" else 1.0 - at(4)
    found = list(read(write(tmp_path / "a.npz", arrivals(**{name: flags}))))
    assert shape_of(found) == [(5, True, True), (4, False, True)]
    assert all(UNCUT in episode.notes for episode in found)
    for number, more in enumerate(({"is_first": at(0, 5)}, {"is_last": at(4, 8)}, {"timeouts": at(8)})):
        found = list(read(write(tmp_path / f"{number}.npz", arrivals(**{name: flags}, **more))))
        assert not any(UNCUT in episode.notes for episode in found)


def test_a_discount_of_0_in_a_first_row_ends_nothing(tmp_path):
    """It fills a row in which nothing was done yet, and that is told."""
    for number, (firsts, more) in enumerate(
        (
            ((0,), {}),
            ((0, 5), {"is_first": at(0, 5)}),
            ((0, 5), {"step_type": np.array([0, 1, 1, 1, 2, 0, 1, 1, 2])}),
        )
    ):
        columns = arrivals(discount=1.0 - at(*firsts, 8), **more)
        found = list(read(write(tmp_path / f"{number}.npz", columns)))
        assert [len(episode.action) for episode in found] == ([9] if len(firsts) == 1 else [5, 4])
        assert found[-1].terminal
        assert FILLED in found[0].notes
    found = list(read(write(tmp_path / "plain.npz", arrivals(discount=1.0 - at(8), is_last=at(8)))))
    assert FILLED not in found[0].notes


@BOTH
@pytest.mark.parametrize("field", ["action", "reward", "state", "image"])
def test_single_values_are_no_rows(tmp_path, suffix, field):
    write(tmp_path / f"a{suffix}", arrivals(image=np.zeros((9, 8, 8, 3), np.uint8)) | {field: np.float32(1)})
    assert f"field '{field}' is a single value" in refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("field", ["action", "reward", "state", "is_last", "skill"])
def test_links_that_lead_nowhere_are_named(tmp_path, field):
    kinds = {
        "soft": h5py.SoftLink("/nowhere"),
        "external": h5py.ExternalLink("nowhere.hdf5", "/x"),
        "empty": h5py.Empty("f4"),
        "group": None,
    }
    for kind, value in kinds.items():
        path = tmp_path / f"{kind}.hdf5"
        write(path, {key: column for key, column in arrivals().items() if key != field})
        with h5py.File(path, "a") as file:
            if value is None:
                file.create_group(field)
            else:
                file[field] = value
        assert f"field '{field}' " in refusal(path)


def test_files_that_are_none_are_named_in_a_folder(tmp_path):
    """Among others too, and beside a file that asks its neighbours."""
    write(tmp_path / "0.npz", arrivals(is_first=at()))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "1.npz")
    with pytest.raises(UserError, match=r"1\.npz cannot be read as npz: it holds one array"):
        list(read(str(tmp_path)))
    for content in (b"", b"PK\x03\x04torn", b"\x80\x04K\x01."):
        (tmp_path / "1.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"1\.npz cannot be read as npz"):
            list(read(str(tmp_path)))
    for path in tmp_path.iterdir():
        path.unlink()
    write(tmp_path / "0.hdf5", arrivals(is_first=at()))
    (tmp_path / "1.hdf5").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"1\.hdf5 cannot be read as HDF5"):
        list(read(str(tmp_path)))


def test_actions_and_states_hold_numbers(tmp_path):
    for number, (field, shape) in enumerate((("action", (9, 0)), ("state", (9, 0)), ("reward", (9, 2)))):
        write(tmp_path / f"{number}.npz", arrivals() | {field: np.zeros(shape)})
        assert f"'{field}' is float64 {shape}" in refusal(tmp_path / f"{number}.npz")
    for number, value in enumerate((np.zeros(9, "M8[s]"), np.zeros(9, "O"), np.zeros(9, complex))):
        write(tmp_path / f"kind{number}.npz", arrivals())
        with pytest.raises(UserError, match="toy: field 'reward' is of type"):
            recording("toy", {"state": np.zeros((9, 1))}, np.zeros((9, 1)), value, False)


@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "next_observations"])
@pytest.mark.parametrize("dtype", ["M8[s]", "U3", "complex64", [("a", "f4")]])
def test_what_was_done_and_seen_are_numbers(tmp_path, field, dtype):
    columns = departures(timeouts=at(8), next_observations=np.arange(1, 10.0)[:, None])
    write(tmp_path / "a.npz", columns | {field: np.zeros(columns[field].shape, dtype)})
    assert f"field '{field}' is of type" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("skill", [["a"] * 9, [0.5] * 9, [np.nan] * 9])
def test_skills_are_whole_numbers(tmp_path, skill):
    write(tmp_path / "a.npz", arrivals(skill=np.array(skill)))
    assert "field 'skill'" in refusal(tmp_path / "a.npz")


def test_masks_of_ogbench_are_0_or_1(tmp_path):
    for number, masks in enumerate((["1"] * 9, [0.5] * 9, [1.0] * 8 + [np.nan])):
        write(tmp_path / f"{number}.npz", ogbench(masks=np.array(masks), rewards=np.zeros(9)))
        assert "field 'masks'" in refusal(tmp_path / f"{number}.npz")


def told(caplog, monkeypatch, *episodes, name="toy"):
    monkeypatch.setattr(logging.getLogger("worldmodels"), "propagate", True)
    caplog.clear()
    survey = Survey()
    for episode in episodes:
        survey.add(episode)
    with caplog.at_level(logging.INFO):
        survey.tell(name)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def episode(count=40, source="toy", **more):
    random = np.random.default_rng(0)
    state, action = random.normal(size=(count, 2)), random.uniform(-0.3, 0.3, (count, 2))
    return recording(source, {"state": state}, action, np.zeros(count), False, **more)


def test_what_is_told_is_short_whatever_was_found(caplog, monkeypatch):
    long = "x" * 400
    name = [f"/data/{long}/{k}" for k in range(9)]
    for said in told(caplog, monkeypatch, episode(source=f"/data/{long}/a.npz, rows 0 to 9", notes=(long,)), name=name):
        assert len(said[1]) < 300
    [first, *_] = told(caplog, monkeypatch, episode(source=f"/{long}/a.npz, rows 0 to 9", notes=("a note",)))
    assert first[1].endswith("a.npz, rows 0 to 9: a note")


def test_episodes_of_one_row_are_told(caplog, monkeypatch):
    """Nothing was done in them: flags that mark each row, or rows in between, make such."""
    lines = told(caplog, monkeypatch, episode(), episode(1), episode(1))
    assert [text for level, text in lines if level == "WARNING" and "2 of 3 episodes have one row" in text]
    assert not [text for _, text in told(caplog, monkeypatch, episode(), episode(2)) if "have one row" in text]


def test_a_reader_that_gives_no_action_is_named():
    """A reader of somebody's own may make a Recording without the checks."""
    for shape in ((40, 0), (0, 2), (40,)):
        made = Recording("toy", {"state": np.zeros((40, 2))}, np.zeros(shape), np.zeros(40), False)
        with pytest.raises(UserError, match="toy: 'action' is float64"):
            Survey().add(made)
