"""Replay after restarts, kills and trouble with disks."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest
import torch
from replay_stream import ENVS, SPEC, STEPS, assert_unbroken, assert_uniform, counter, draw, fill, make, valid_starts

from worldmodels.data.ledger import Ledger
from worldmodels.data.replay import Replay
from worldmodels.data.storage import BUILDING, ReplayLayout, create, plan
from worldmodels.errors import UserError

# Restarts: a second object on the same folder is what a killed process leaves -----------------------------------------


def restart(replay: Replay, state: dict, tmp_path, **change) -> Replay:
    torch.save(state, tmp_path / "state.pt")
    again = make(tmp_path, **change)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    return again


@pytest.mark.parametrize("cross_resets", [True, False])
def test_after_a_kill_everything_goes_on_bit_for_bit(tmp_path, cross_resets):
    replay = fill(make(tmp_path, cross_resets=cross_resets, seed=4), 15)
    replay.sample(8, 4)
    state = replay.state_dict()
    fill(replay, 20, start=15)
    expected = [replay.sample(8, 4) for _ in range(3)]
    # The lost rows were other ones (another policy, say), so that any left behind would show.
    again = restart(replay, state, tmp_path, cross_resets=cross_resets)
    fill(again, 20, start=900)
    again = restart(again, state, tmp_path, cross_resets=cross_resets)
    assert len(again) == 15 * ENVS
    fill(again, 20, start=15)
    for batch in expected:
        actual = again.sample(8, 4)
        assert all(torch.equal(actual[key], batch[key]) for key in SPEC)


@pytest.mark.parametrize("saved", [STEPS - 10, 3 * STEPS + 7])
def test_restart__drops_rows_overwritten_since_the_checkpoint(tmp_path, saved, caplog):
    """Newer rows are dropped too, the log counts both, and what is recorded next joins on without a seam."""
    replay = fill(make(tmp_path), saved)
    state = replay.state_dict()
    newer = 17
    fill(replay, newer, start=saved)
    with caplog.at_level(logging.INFO):
        again = restart(replay, state, tmp_path)
    oldest = saved + newer - STEPS
    assert_uniform(draw(again, 4), valid_starts(range(oldest, saved), 4, True))
    lost = oldest - max(0, saved - STEPS)
    assert f"{newer * ENVS} rows newer than the checkpoint are dropped" in caplog.text
    assert f"{lost * ENVS} of the checkpoint's {min(saved, STEPS) * ENVS} rows" in caplog.text
    # What is recorded from here on joins on without a seam, and the dropped rows never come back.
    for rows in range(1, 3 * STEPS):
        fill(again, 1, start=saved + rows - 1)
        batch = again.sample(32, 4)
        assert_unbroken(batch)
        assert batch["tick"].min() >= oldest
    assert len(again) == STEPS * ENVS


def test_when_everything_was_overwritten_recording_starts_afresh(tmp_path):
    replay = fill(make(tmp_path), 10)
    state = replay.state_dict()
    fill(replay, 5 * STEPS, start=10)
    again = restart(replay, state, tmp_path)
    assert len(again) == 0
    fill(again, 6, start=10)
    assert len(again) == 6 * ENVS
    assert_uniform(draw(again, 4), valid_starts(range(10, 16), 4, True))


def test_rows_in_the_place_of_dropped_ones_have_their_own_ends(tmp_path):
    """As many rows as before the restart, and other episodes among them."""
    replay = fill(make(tmp_path, cross_resets=False), 10)
    saved = replay.state_dict()
    before = fill(replay, 10, start=10).episode_spans()
    replay.load_state_dict(saved)
    assert fill(replay, 10, start=12).episode_spans() != before
    assert replay.episode_spans() == make(tmp_path, cross_resets=False).episode_spans()
    assert replay.episode_lengths() == [rows for _, rows, _ in replay.episode_spans()]


def test_rows_of_a_block_cut_off_by_a_kill_are_not_sampled(tmp_path, monkeypatch):
    """Nor are those that they were overwriting."""
    replay = fill(make(tmp_path), STEPS)
    rows = [next(stream) for stream in [counter(STEPS)] for _ in range(4)]
    monkeypatch.setattr(Ledger, "commit", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replay.extend_block({key: torch.stack([step[key] for step in rows]) for key in SPEC})
    assert_uniform(draw(make(tmp_path), 4), valid_starts(range(4, STEPS), 4, True))


def test_a_row_cut_off_by_a_kill_is_not_sampled(tmp_path):
    replay = fill(make(tmp_path), 2 * STEPS)
    replay._ledger.begin()  # killed while the bytes of row 2 * STEPS replace those of row STEPS
    again = make(tmp_path)
    assert_uniform(draw(again, 4), valid_starts(range(STEPS + 1, 2 * STEPS), 4, True))


def test_a_recorded_folder_opens_by_itself(tmp_path):
    fill(make(tmp_path), 2 * STEPS + 3)
    again = Replay.open(tmp_path / "replay", cross_resets=False)
    assert_uniform(draw(again, 3), valid_starts(range(STEPS + 3, 2 * STEPS + 3), 3, False))


def test_the_capacity_on_disk_stays(tmp_path, caplog):
    fill(make(tmp_path), 30)
    again = make(tmp_path, capacity=9000)
    assert again.layout.steps == STEPS
    assert "keeps the 120 rows" in caplog.text


# Disks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [30, STEPS + 12])
def test_truncated_file__whole_rows_are_used(tmp_path, rows, caplog):
    """The log counts them, a second restart still leaves the lost ones out, and later rows join on without a seam."""
    replay = fill(make(tmp_path), rows)
    state, size = replay.state_dict(), ENVS * 3 * 4 * 4
    del replay
    pixels = tmp_path / "replay" / "pixels.memmap"
    os.truncate(pixels, 20 * size + size // 2)
    again = make(tmp_path)
    before = min(rows, STEPS)
    left = [tick for tick in range(rows - before, rows) if tick % STEPS < 20]
    assert f"the {len(left) * ENVS} whole rows that are left of {before * ENVS} are used" in caplog.text
    # The checkpoint counts the lost rows, and so does a second restart, when the file has its full size again.
    for _ in range(2):
        again = restart(again, state, tmp_path)
        assert len(again) == len(left) * ENVS
        batch = draw(again, 2)
        assert_unbroken(batch)
        assert set(batch["tick"].flatten().tolist()) == set(left)
    fill(again, 6, start=rows)
    batch = draw(again, 2)
    assert_unbroken(batch)
    kept = {tick for tick in left if tick >= rows + 6 - STEPS} | set(range(rows, rows + 6))
    assert set(batch["tick"].flatten().tolist()) == kept
    assert len(fill(again, 2 * STEPS, start=rows + 6)) == STEPS * ENVS


def test_folders_that_are_not_this_replay(tmp_path):
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty: use another folder"):
        make(tmp_path)
    with pytest.raises(UserError, match="not the layout of a replay"):
        Replay.open(tmp_path / "replay")
    good = fill(make(tmp_path / "a"), 3)
    with pytest.raises(UserError, match=r"other columns.*different: reward"):
        make(tmp_path / "a", spec=SPEC | {"reward": ((2,), torch.float32)})
    with pytest.raises(UserError, match="3 environments"):
        make(tmp_path / "a", num_envs=2)
    with pytest.raises(UserError, match="not of one run"):
        make(tmp_path / "b").load_state_dict(good.state_dict())
    (good.directory / "reward.memmap").unlink()
    with pytest.raises(UserError, match=r"reward.memmap is missing"):
        make(tmp_path / "a")
    (good.directory / "reward.memmap").write_bytes(bytes(10**6))
    with pytest.raises(UserError, match="does not belong"):
        make(tmp_path / "a")
    (good.directory / "replay.json").write_text('{"spec": {"x": [[], "no such dtype"]}}')
    with pytest.raises(UserError, match="not the layout of a replay"):
        make(tmp_path / "a")


@pytest.mark.process
def test_what_killed_processes_were_building_is_cleared(tmp_path):
    """What a living process builds, or one on another host, stays."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    left, living, elsewhere = (
        tmp_path / f"{BUILDING}{host}-{pid}-0a" for host, pid in ((here, gone.pid), (here, os.getpid()), ("x-y", 1))
    )
    for folder in (left, living, elsewhere):
        folder.mkdir()
        (folder / "pixels.memmap").write_bytes(b"half")
    assert len(fill(make(tmp_path), 4)) == 4 * ENVS
    assert {path.name for path in tmp_path.iterdir()} == {"replay", living.name, elsewhere.name}


LAYOUT = plan({"is_first": ((), torch.bool), "reward": ((), torch.float32)}, 1, 50)


def test_a_second_replay_in_one_folder_is_refused(tmp_path):
    """The first one's files stay, wherever the second is when the first is done, and nothing of the second is left."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    create(tmp_path / "link", LAYOUT, 1)
    inode = (tmp_path / "empty" / "reward.memmap").stat().st_ino
    for name in ("empty", "link"):
        with pytest.raises(UserError, match=f"{tmp_path / 'empty'} is not empty: use another folder"):
            create(tmp_path / name, LAYOUT, 1)
    assert (tmp_path / "empty" / "reward.memmap").stat().st_ino == inode
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "link"}


@pytest.mark.parametrize("name", [".", "../here", "{tmp_path}/here"])
def test_the_present_folder_is_not_replaced(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"here is the present folder, .*: use a folder within it\."):
        create(Path(name.format(tmp_path=tmp_path)), LAYOUT, 1)
    create(Path("within"), LAYOUT, 1)
    assert [path.name for path in Path().iterdir()] == ["within"]


def test_of_many_that_make_one_folder_one_does(tmp_path, monkeypatch):
    """All have found it empty before the first renames what it has built."""
    all_here, save = Barrier(6), ReplayLayout.save

    def wait(*args):
        all_here.wait(timeout=30)
        save(*args)

    def attempt(_):
        try:
            create(tmp_path / "one", LAYOUT, 1)
        except UserError as error:
            return str(error)
        return ""

    monkeypatch.setattr(ReplayLayout, "save", wait)
    with ThreadPool(6) as pool:
        said = sorted(pool.map(attempt, range(6)))
    assert said[0] == ""
    assert set(said[1:]) == {f"Another process has just begun to write into {tmp_path / 'one'}: use another folder."}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert ReplayLayout.load(tmp_path / "one" / "replay.json") == LAYOUT


def test_more_than_the_limit_is_refused_with_what_to_change(tmp_path):
    with pytest.raises(UserError, match=r"needs 1\.\d\d GiB for 12,000,000 rows.*`frames`.*capacity.*size.*limit_gib"):
        make(tmp_path, capacity=12_000_000)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_refused_before_anything_is_recorded(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(UserError, match=r"needs .* GiB.*No space left on device.*`data.capacity`"):
            make(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="GiB left"):
        make(tmp_path, capacity=10**15, limit_gib=1e12)
    assert not list(tmp_path.iterdir())


# The ledger against a plain model of a ring --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_the_ledger_agrees_with_a_list_of_cells(seed):
    generator = torch.Generator().manual_seed(seed)
    steps = 7
    values = torch.zeros(5, dtype=torch.int64)
    ledger, cells, saved = Ledger(values, steps), [None] * steps, 0
    for time in range(400):
        event = int(torch.randint(30, (), generator=generator))
        if time == 100 + 2 * seed:  # killed, and a file was truncated
            ledger = Ledger(values, steps)
            ledger.lose(3)
            cells[3:] = [None] * (steps - 3)
        if event == 0:  # killed and restarted from the checkpoint
            ledger = Ledger(values, steps)
            ledger.rewind(saved)
            cells = [cell if cell is not None and cell < saved else None for cell in cells]
        elif event == 1:
            saved = ledger.count
        else:
            ledger.begin()
            cells[ledger.count % steps] = ledger.count
            ledger.commit()
        runs = ledger.runs()
        valid = [row for first, end in runs for row in range(first, end)]
        assert valid == sorted(cell for cell in cells if cell is not None)
        assert all(end < first for (_, end), (first, _) in itertools.pairwise(runs))


# Latents that were rewritten since a checkpoint ----------------------------------------------------------------------


def rewrite(replay: Replay, value: float, draws: int = 3) -> None:
    for _ in range(draws):
        place = replay.sample(4, 5)["place"].flatten()
        replay.rewrite(place, {"memory.stoch": torch.full((len(place), 6), value)})


def latents(replay: Replay) -> torch.Tensor:
    """Of every row that is left, [environment, row, ...]."""
    return replay.all_windows(1)["memory.stoch"].unflatten(0, (ENVS, -1))


@pytest.mark.parametrize("saved", [STEPS - 10, 3 * STEPS + 7])
def test_after_a_kill_latents_are_those_of_the_checkpoint(tmp_path, saved):
    """Of the newest checkpoint, and of the one before where the newest was never finished."""
    replay = fill(make(tmp_path), saved)
    rewrite(replay, 1.0)
    older, then = replay.state_dict(), latents(replay)
    rewrite(replay, 2.0)
    newer, now = replay.state_dict(), latents(replay)
    rewrite(replay, 3.0)
    fill(replay, 1, start=saved)
    rewrite(replay, 4.0)
    assert not torch.equal(now, then)
    again = restart(replay, newer, tmp_path)
    gone = saved >= STEPS  # the oldest row, overwritten since
    assert torch.equal(latents(again), now[:, gone:])
    again = restart(again, older, tmp_path)
    assert torch.equal(latents(again), then[:, gone:])
    rewrite(again, 5.0)
    again = restart(again, older, tmp_path)  # killed once more
    assert torch.equal(latents(again), then[:, gone:])


def test_record_that_was_cut_short_is_of_rows_still_as_they_were(tmp_path):
    replay = fill(make(tmp_path), 30)
    state, before = replay.state_dict(), latents(replay)
    rewrite(replay, 1.0, draws=1)
    log = tmp_path / "replay" / "undo-1.log"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:100])
    assert torch.equal(latents(restart(replay, state, tmp_path)), before)


@pytest.mark.parametrize(("count", "row"), [(1, 10**6), (1, -1), (2**60, 0)])
def test_log_of_another_ring_is_refused_in_one_sentence(tmp_path, count, row):
    replay = fill(make(tmp_path), 30)
    state = replay.state_dict()
    numbers = count.to_bytes(8, "little") + row.to_bytes(8, "little", signed=True)
    (tmp_path / "replay" / "undo-1.log").write_bytes(numbers + bytes(10**4))
    (tmp_path / "replay" / "undo-mine.log").touch()
    with pytest.raises(UserError, match=r"undo-1\.log names rows that this replay does not have"):
        restart(replay, state, tmp_path)


def test_only_the_newest_whole_checkpoint_has_a_log(tmp_path, caplog):
    """An older one is continued all the same, and that is told."""
    replay = fill(make(tmp_path), 30)
    first = replay.state_dict()
    for _ in range(3):
        rewrite(replay, 1.0, draws=1)
        replay.state_dict()
    assert len(list((tmp_path / "replay").glob("undo-*.log"))) > 3
    replay.checkpointed()
    assert [path.name for path in (tmp_path / "replay").glob("undo-*.log")] == ["undo-4.log"]
    restart(replay, first, tmp_path)
    assert "stored latents are newer than the checkpoint" in caplog.text


def test_full_disk_stops_the_rewriting_in_one_sentence(tmp_path, monkeypatch):
    replay = fill(make(tmp_path), 30)
    replay.state_dict()

    class Full:
        def write(self, content: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(replay._undo, "_file", Full())
    before = latents(replay)
    with pytest.raises(UserError, match=r"undo-1\.log could not be written \(No space left"):
        rewrite(replay, 1.0)
    assert torch.equal(latents(replay), before)
