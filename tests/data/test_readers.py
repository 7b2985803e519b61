"""Layouts of other people's rows: where episodes are cut, which action stands where, what is kept, what is told."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from recorded_rows import arrivals, at, departures, ogbench, shape_of, write

from worldmodels.data.readers import read
from worldmodels.data.readers.ogbench import UNREWARDED
from worldmodels.data.readers.rows import EARNED, GOES_ON, MOVED, PIECE, REPEATED, UNSURE
from worldmodels.errors import UserError


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"is_first": at(0, 3, 6), "is_last": at(2, 5), "is_terminal": at(5)},
            [(3, False, True), (3, True, True), (3, False, False)],
        ),
        ({"is_first": at(0, 4)}, [(4, False, True), (5, False, True)]),
        ({"is_terminal": at(2)}, [(3, True, True), (6, False, True)]),
        ({"terminals": at(2), "timeouts": at(5)}, [(3, True, True), (3, False, True), (3, False, False)]),
        ({"terminated": at(2), "truncated": at(8)}, [(3, True, True), (6, False, True)]),
        ({"terminal": at(2)[:, None], "truncations": at(2, 5)}, [(3, True, True), (3, False, True), (3, False, False)]),
        ({"dones": at(2, 5), "timeouts": at(5)}, [(3, True, True), (3, False, True), (3, False, False)]),
        ({"done": at(2).astype(np.float64)}, [(3, True, True), (6, False, False)]),
        ({"discount": 1.0 - at(2), "is_last": at(2, 8)}, [(3, True, True), (6, False, True)]),
        (
            {"step_type": np.array([0, 1, 2, 0, 1, 1, 1, 1, 2]), "discount": 1.0 - at(8)},
            [(3, False, True), (6, True, True)],
        ),
        ({}, [(9, False, True)]),
    ],
)
def test_episodes_are_cut_where_flags_say(tmp_path, suffix, flags, expected):
    found = list(read(write(tmp_path / f"rows{suffix}", arrivals(**flags))))
    assert shape_of(found) == expected
    states = np.concatenate([e.observations["state"][:, 0] for e in found])
    assert states.tolist() == list(range(9))
    for episode in found:
        assert episode.reward[1:].tolist() == episode.observations["state"][1:, 0].tolist()
        assert not episode.action[0].any()
        assert episode.reward[0] == 0


def test_done_alone_is_told_to_be_taken_as_an_end_for_good(tmp_path):
    found = list(read(write(tmp_path / "a.npz", arrivals(done=at(2)))))
    assert any("time ran out" in note for note in found[0].notes)
    found = list(read(write(tmp_path / "b.npz", arrivals(done=at(2), timeouts=at(2)))))
    assert shape_of(found)[0] == (3, False, True)
    assert not any("time ran out" in note for note in found[0].notes)


def test_fields_that_nobody_reads_are_named_once(tmp_path):
    columns = arrivals() | {"log_entropy": np.zeros(9), "stoch": np.zeros((9, 4))}
    [episode] = read(write(tmp_path / "a.npz", columns))
    assert episode.notes == ("fields that are not read: [log_entropy, stoch]",)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for key, value in arrivals().items():
            file[key] = value
        file.create_group("infos")["qpos"] = np.zeros(9)
    [episode] = read(str(tmp_path / "b.h5"))
    assert episode.notes == ("fields that are not read: [infos]",)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_actions_taken_at_their_row_are_moved_on(tmp_path, suffix):
    """DreamerV3's chunks: the first row of an episode holds its first action; rewards stay where they are."""
    columns = arrivals(is_first=at(0, 4), is_last=at(3, 8))
    columns["action"] = np.arange(9, dtype=np.float32)[:, None] / 10 + 0.05
    one, two = read(write(tmp_path / f"a{suffix}", columns))
    np.testing.assert_allclose(one.action[:, 0], [0, 0.05, 0.15, 0.25], rtol=1e-6)
    np.testing.assert_allclose(two.action[:, 0], [0, 0.45, 0.55, 0.65, 0.75], rtol=1e-6)
    assert one.reward.tolist() == [0, 1, 2, 3]
    assert MOVED in one.notes


def test_rewards_earned_at_their_row_are_moved_too(tmp_path):
    """RLDS: what the last row did and earned means nothing; first rewards tell that from DreamerV3's."""
    columns = arrivals(is_first=at(0, 4), is_last=at(3, 8))
    columns["action"] = np.arange(9, dtype=np.float32)[:, None] / 10 + 0.05
    columns["reward"] = np.array([5, 6, 7, 0, 1, 2, 3, 4, 0], np.float32)
    one, two = read(write(tmp_path / "a.npz", columns))
    assert [one.reward.tolist(), two.reward.tolist()] == [[0, 5, 6, 7], [0, 1, 2, 3, 4]]
    assert EARNED in one.notes
    columns["reward"][8] = 9  # earned by arriving there
    one, two = read(write(tmp_path / "b.npz", columns))
    assert two.reward.tolist() == [0, 2, 3, 4, 9]
    assert EARNED not in one.notes


def test_a_piece_of_an_episode_is_read_as_its_neighbours_are(tmp_path):
    """A chunk in which no episode begins does not say where its actions stand; others of the folder do."""
    whole = arrivals(is_first=at(0))
    whole["action"] = np.full((9, 1), 0.5, np.float32)
    write(tmp_path / "1.npz", whole)
    write(tmp_path / "0.npz", {**whole, "is_first": at()})
    (tmp_path / "._1.npz").write_bytes(b"what a Mac writes")
    piece, first = read(str(tmp_path))
    assert MOVED in piece.notes
    assert PIECE in piece.notes
    assert piece.action[:2, 0].tolist() == [0, 0.5]
    assert PIECE not in first.notes
    (tmp_path / "1.npz").unlink()
    [alone] = read(str(tmp_path))
    assert UNSURE in alone.notes
    assert MOVED not in alone.notes


def test_one_episode_without_flags_says_that_it_is_unsure(tmp_path):
    columns = arrivals()
    columns["action"] = np.full((9, 1), 0.5, np.float32)
    [episode] = read(write(tmp_path / "a.npz", columns))
    assert episode.notes == (UNSURE,)
    assert not next(iter(read(write(tmp_path / "b.npz", arrivals())))).notes


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_fillers_of_first_rows_need_not_be_numbers(tmp_path, suffix):
    columns = arrivals(is_first=at(0, 4), is_last=at(3, 8), discount=np.ones(9))
    for key in ("action", "reward"):
        columns[key][[0, 4]] = np.nan
    columns["discount"][0] = np.nan
    one, two = read(write(tmp_path / f"a{suffix}", columns))
    assert one.notes == two.notes == ()
    np.testing.assert_allclose(two.action[:, 0], [0, 0.55, 0.65, 0.75, 0.85], rtol=1e-6)
    columns["reward"][6] = np.nan
    with pytest.raises(UserError, match=r"rows 4 to 8: field 'reward' holds numbers that are not finite, .* row 2"):
        list(read(write(tmp_path / f"b{suffix}", columns)))
    columns["reward"][6], columns["discount"][5] = 0, np.nan
    with pytest.raises(UserError, match=r"field 'discount' holds numbers that are not finite, first in row 5"):
        list(read(write(tmp_path / f"c{suffix}", columns)))


def test_numbers_that_are_none_are_refused(tmp_path):
    columns = arrivals() | {"action": np.array([["a"]] * 9)}
    with pytest.raises(UserError, match="field 'action' is of type <U1, where numbers are expected"):
        list(read(write(tmp_path / "a.npz", columns)))
    columns = arrivals() | {"reward": np.full(9, 1e300)}
    with pytest.raises(UserError, match="field 'reward' holds numbers that are not finite, first in its row 1"):
        list(read(write(tmp_path / "b.npz", columns)))


def test_precisions_may_differ(tmp_path):
    """Of fields in a file, of files in a set, and of next_observations."""
    one = arrivals()
    two = {key: value.astype(np.float64) for key, value in one.items()}
    write(tmp_path / "1.npz", one | {"reward": one["reward"].astype(np.float16)})
    write(tmp_path / "2.npz", two)
    write(tmp_path / "3.hdf5", departures() | {"next_observations": np.arange(1, 10.0)[:, None]})
    for episode in read(str(tmp_path)):
        assert {episode.action.dtype, episode.reward.dtype, episode.observations["state"].dtype} == {np.dtype("f4")}


def test_single_actions_may_stand_without_a_second_axis(tmp_path):
    columns = arrivals()
    [episode] = read(write(tmp_path / "a.npz", columns | {"action": columns["action"][:, 0]}))
    np.testing.assert_array_equal(episode.action, columns["action"])


def test_choices_as_numbers_are_refused(tmp_path):
    columns = arrivals() | {"action": np.arange(9) % 3}
    with pytest.raises(
        UserError, match=r"'action' is int64 \(9,\), where numbers \[T, n\] are expected: write choices"
    ):
        list(read(write(tmp_path / "a.npz", columns)))


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_antmaze_keeps_its_rewards_and_goes_on(tmp_path, suffix):
    """Terminals in a cluster do not end the trajectory; the last row's reward and end are kept."""
    reached = at(3, 4, 8)
    columns = departures(rewards=reached.astype(np.float32), terminals=reached, timeouts=at(4, 8))
    one, two = read(write(tmp_path / f"a{suffix}", columns))
    assert one.observations["state"][:, 0].tolist() == [0, 1, 2, 3, 4, 4]
    assert one.reward.tolist() == [0, 0, 0, 0, 1, 1]
    np.testing.assert_allclose(one.action[:, 0], [0, 0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert (one.terminal, one.finished) == (two.terminal, two.finished) == (True, True)
    assert GOES_ON in one.notes
    assert REPEATED in one.notes
    assert one.reward.sum() + two.reward.sum() == 3


def test_terminals_with_a_jump_behind_them_end_episodes(tmp_path):
    """Then the next row is a reset, and no motion to learn."""
    state = np.array([0, 1, 2, 3, 50, 51, 52, 53, 54], np.float32)[:, None]
    columns = departures(observations=state, terminals=at(3), timeouts=at(8), rewards=at(3).astype(np.float32))
    one, two = read(write(tmp_path / "a.hdf5", columns))
    assert one.observations["state"][:, 0].tolist() == [0, 1, 2, 3, 3]
    assert (one.terminal, one.reward.sum()) == (True, 1)
    assert GOES_ON not in one.notes
    assert two.observations["state"][:, 0].tolist() == [50, 51, 52, 53, 54]  # nothing earned: nothing made up
    assert (two.terminal, two.finished) == (False, True)
    assert REPEATED not in two.notes


@pytest.mark.parametrize("name", ["terminateds", "terminations", "dones"])
def test_d4rls_ends_may_have_other_names(tmp_path, name):
    columns = departures(
        truncations=at(8), **{name: at(3)}, observations=np.array([0, 1, 2, 3, 50, 51, 52, 53, 54.0])[:, None]
    )
    del columns["terminals"], columns["timeouts"]
    found = list(read(write(tmp_path / "a.hdf5", columns)))
    assert shape_of(found) == [(5, True, True), (5, False, True)]


def test_frames_of_d4rls_layout_may_have_channels_last(tmp_path):
    frames = np.random.default_rng(0).integers(256, size=(9, 8, 8, 3), dtype=np.uint8)
    for name, value in (("last", frames), ("first", frames.transpose(0, 3, 1, 2))):
        [episode] = read(write(tmp_path / f"{name}.npz", departures(observations=value, timeouts=at(8))))
        np.testing.assert_array_equal(episode.observations["pixels"], frames.transpose(0, 3, 1, 2))


def test_files_with_a_group_an_episode_are_named_shortly(tmp_path):
    for key, match in (("episode_", "say data=minari:<id> instead"), ("data", "as robomimic's files do")):
        path = tmp_path / f"{key}.hdf5"
        with h5py.File(path, "w") as file:
            for number in range(400):
                file.create_group(f"{key}{number}")["observations"] = [[0.0]]
        with pytest.raises(UserError, match=match) as raised:
            list(read(str(path)))
        assert len(str(raised.value).replace(str(path), "")) < 300
    columns = {f"a_rather_long_name_of_a_field_{number}": np.zeros(3) for number in range(400)}
    for suffix in (".npz", ".hdf5"):
        with pytest.raises(UserError, match="has no field 'action'") as raised:
            list(read(write(tmp_path / f"long{suffix}", columns)))
        assert len(str(raised.value).replace(str(tmp_path), "")) < 300


def test_what_a_mac_adds_is_passed_over(tmp_path):
    write(tmp_path / "e.npz", arrivals())
    (tmp_path / "._e.npz").write_bytes(b"\x00\x05\x16\x07")
    assert len(list(read(str(tmp_path)))) == 1
    (tmp_path / "e.npz").unlink()
    with pytest.raises(UserError, match="layout that is not known"):
        list(read(str(tmp_path)))


def test_ogbenchs_trajectories_end_without_an_end_for_good(tmp_path):
    """The last action of each led nowhere and is left out, as OGBench does."""
    one, two = read(write(tmp_path / "a.npz", ogbench()))
    assert shape_of([one, two]) == [(4, False, True), (5, False, True)]
    np.testing.assert_allclose(two.action[:, 0], [0, 0.4, 0.5, 0.6, 0.7], rtol=1e-6)
    assert two.observations["state"][:, 0].tolist() == [4, 5, 6, 7, 8]
    assert one.notes == ("fields that are not read: [qpos]", UNREWARDED)


def test_ogbenchs_masks_and_rewards_are_kept(tmp_path):
    """A mask of 0 in the middle of a trajectory does not end it; one in its last row is an end for good."""
    columns = ogbench(masks=1.0 - at(2, 8), rewards=at(2, 8) - 1.0)
    one, two = read(write(tmp_path / "a.npz", columns))
    assert shape_of([one, two]) == [(5, False, True), (6, True, True)]
    assert one.reward.tolist() == [0, -1, -1, 0, -1]
    assert UNREWARDED not in one.notes
    del columns["masks"]
    with pytest.raises(UserError, match=r"has no field 'timeouts'.* does not say where episodes end"):
        list(read(write(tmp_path / "b.npz", columns)))


def test_ogbenchs_frames_have_channels_last(tmp_path):
    frames = np.random.default_rng(0).integers(256, size=(9, 8, 8, 3), dtype=np.uint8)
    one, _ = read(write(tmp_path / "a.npz", ogbench(observations=frames)))
    np.testing.assert_array_equal(one.observations["pixels"], frames[:4].transpose(0, 3, 1, 2))


def test_files_of_one_ending_find_their_reader(tmp_path):
    """Dreamer's, OGBench's and D4RL's npz in one folder."""
    write(tmp_path / "1.npz", arrivals())
    write(tmp_path / "2.npz", ogbench())
    write(tmp_path / "3.npz", departures(timeouts=at(8)))
    assert [len(e.action) for e in read(str(tmp_path))] == [9, 4, 5, 9]
