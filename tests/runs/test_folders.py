"""Folders of runs: each its own, and one writer at a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from toy_runs import WORDS, spawn

from worldmodels.config import load_config
from worldmodels.data.replay import Replay
from worldmodels.errors import UserError
from worldmodels.runs.folders import CONFIG, new_folder, read_config, removed_unless_begun, run_folder
from worldmodels.runs.loading import load_run
from worldmodels.runs.lock import LOCK, Owner, locked, seconds_to_start

NOW = datetime(2026, 1, 1, 12, 0, 0)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_runs_of_one_second_have_folders_of_their_own():
    cfg = load_config([])
    with ThreadPool(8) as pool:
        folders = pool.map(lambda _: new_folder(cfg, NOW), range(24))
    assert len(set(folders)) == 24
    assert all(folder.is_dir() for folder in folders)


def test_a_run_that_fails_leaves_the_folders_of_others():
    first, second = (new_folder(load_config([f"seed={seed}"]), NOW) for seed in (0, 1))
    (first / "replay").mkdir()
    with pytest.raises(RuntimeError), removed_unless_begun(second):
        raise RuntimeError
    assert (first / "replay").is_dir()
    assert not second.exists()


def test_one_name_is_one_runs(tmp_path):
    """The second is refused while the first begins, and does not take its folder away."""
    cfg = load_config([f"run_dir={tmp_path / 'mine'}"])
    with run_folder(cfg, None) as folder:
        with (
            pytest.raises(UserError, match="another run has just begun: choose another run_dir"),
            run_folder(cfg, None),
        ):
            pass
        with pytest.raises(UserError, match=f"is being written by process {os.getpid()}"), run_folder(cfg, folder):
            pass
        assert folder.is_dir()
        (folder / CONFIG).touch()
    assert [file.name for file in folder.iterdir()] == [CONFIG]


def lock_of(folder, **changes) -> None:
    own = Owner.this()
    (folder / LOCK).write_text(json.dumps({"pid": own.pid, "host": own.host, "started": own.started} | changes))


@pytest.mark.process
def test_a_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, caplog):
    """So is one whose number another process has now, and one that a kill cut short. Each is told."""
    caplog.set_level("INFO")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for changes in ({"pid": gone.pid}, {"started": Owner.this().started - 100}):
        lock_of(tmp_path, **changes)
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert "is gone: its lock is taken over" in caplog.text
        assert not (tmp_path / LOCK).exists()
        caplog.clear()
    (tmp_path / LOCK).write_text('{"pid": 12')
    with locked(tmp_path):
        assert "cannot be read, as after its writer was killed" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "yesterday"},
        {"started": None},
        {"pid": -1},
        {"pid": 0},
        {"pid": True},
        {"pid": "12"},
        {"pid": 1.5},
        {"host": 7},
        {"user": "me"},
    ],
)
def test_a_strange_lock_is_taken_over_and_that_is_told(tmp_path, caplog, changes):
    caplog.set_level("INFO")
    lock_of(tmp_path, **changes)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert f"{tmp_path / LOCK} cannot be read" in caplog.text
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("content", [b"[1]", b"\xff\xff", b"[" * 10**5, b"null", b"{}"])
def test_a_lock_of_other_content_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("name", ["/proc/x", "/proc/x/y", "dangling/run", "file/run"])
def test_a_run_dir_that_cannot_be_made_is_one_sentence(said, name):
    Path("dangling").symlink_to("/proc/none/such")
    Path("file").touch()
    assert re.fullmatch(
        rf"{name} cannot be written \(.+\): choose another run_dir\.", said.refusal("train", *WORDS, f"run_dir={name}")
    )


def test_runs_that_cannot_be_made_here_are_one_sentence(said):
    Path("runs").symlink_to("/proc/none")
    assert "runs cannot be written (File exists)" in said.refusal("train", *WORDS)


def test_a_lock_of_another_host_is_told_with_the_remedy(tmp_path):
    lock_of(tmp_path, host="elsewhere", pid=7)
    with pytest.raises(UserError, match=rf"process 7 on elsewhere, .* delete {tmp_path / LOCK}\.$"), locked(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


def test_a_process_that_ended_unreaped_is_gone():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert not Owner(child, Owner.this().host, 0.0).lives()
    os.waitpid(child, 0)
    assert seconds_to_start(os.getpid()) > 0


@pytest.mark.process
def test_two_processes_do_not_resume_one_run(run_folder):
    """One goes on, the other is refused in a sentence. Who reads the run meanwhile is not stopped."""
    both = [spawn("train", f"resume={run_folder}", "frames=140") for _ in range(2)]
    load_run(run_folder)
    said = [process.communicate(timeout=180) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    refused = next(error for process, (_, error) in zip(both, said, strict=True) if process.returncode)
    assert "is being written by process" in refused
    assert refused.count("\n") == 1
    assert not (run_folder / LOCK).exists()


@pytest.mark.process
def test_two_processes_do_not_record_into_one_folder(tmp_path):
    """Whichever makes it first has it for itself; the others are refused in a sentence and touch nothing."""
    words = ["env=counter", "env.obs=state", "frames=300", f"to={tmp_path / 'col'}", "planner=random"]
    all_ = [spawn("collect", *words, f"seed={seed}") for seed in range(3)]
    said = [process.communicate(timeout=180) for process in all_]
    assert sorted(process.returncode for process in all_) == [0, 1, 1], said
    for process, (_, error) in zip(all_, said, strict=True):
        if process.returncode:
            assert re.search("is not empty|another process has just begun", error, re.IGNORECASE), error
            assert error.count("\n") == 1
    winner = next(seed for seed, process in enumerate(all_) if not process.returncode)
    assert read_config(tmp_path / "col").seed == winner
    replay = Replay.open(tmp_path / "col")
    assert len(replay) == replay.layout.rows  # trimmed once, to what one of them has recorded
    assert json.loads((tmp_path / "col" / "card.json").read_text())["frames"] == 300
    assert [path.name for path in tmp_path.iterdir()] == ["col"]


@pytest.mark.process
@pytest.mark.parametrize("frames", [100, 20])
def test_fewer_frames_than_were_made_change_nothing(said, run_folder, frames):
    before = (run_folder / CONFIG).read_text(), (run_folder / "evaluation.json").read_bytes()
    message = said.refusal("train", f"resume={run_folder}", f"frames={frames}")
    assert f"frames={frames} is lower than the 120 frames that {run_folder} has already made" in message
    assert before == ((run_folder / CONFIG).read_text(), (run_folder / "evaluation.json").read_bytes())


@pytest.mark.process
def test_fewer_updates_than_were_made_change_nothing(said, tmp_path, finished_run, unscored):
    words = [*WORDS, f"data={finished_run}", "updates=4", "run_dir=offline"]
    assert said.exit("train", *words) == (0, "")
    assert "updates=3 is lower than the 4 updates" in said.refusal("train", "resume=offline", "updates=3")
    assert read_config(tmp_path / "offline").updates == 4
