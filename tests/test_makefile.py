"""What `make` does, tried in a folder of its own with an interpreter that only writes down how it was called."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from places import ROOT

FAKE = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
  --version) echo "Python 3.14.0"; exit ;;
  "-c "*) test ! -e "$here/unsupported"; exit ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; exit ;;
esac
echo "$GOMP_SPINCOUNT $OMP_NUM_THREADS: $*" >> calls
test ! -e "$here/fails" || exit 1
case "$*" in *wait=1*)
  trap 'sleep 0.5; echo saved >> calls; exit 130' INT
  echo up >> calls
  for turn in $(seq 300); do sleep 0.1; done ;;
esac
"""

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]


class Checkout:
    """A folder with the files that the Makefile needs, and a Python that is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.python = folder / "python"
        self.python.write_text(FAKE)
        self.python.chmod(0o755)
        inherited = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS", "PYTHON", "TORCH_INDEX")
        ours = (*inherited, "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "TEST_WORKERS")
        self.environ = {key: value for key, value in os.environ.items() if key not in ours}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = ["make", f"PYTHON={self.python}", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
            # A shell starts its background jobs with SIGINT ignored, and so would be everything below these tests.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def make(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def calls(self) -> list[str]:
        """How Python was called since the last look."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Checkout(folder)


def test_setup_installs_the_pins_once_and_again_when_they_change(checkout: Checkout) -> None:
    assert checkout.make("setup") == (0, "")
    calls = checkout.calls()
    assert len(calls) == 2
    assert all("-m pip install" in call and "-c constraints.txt" in call for call in calls)
    assert calls[0].endswith("torch")
    assert calls[1].endswith("-e .[dev]")
    assert checkout.make("setup") == (0, "")
    assert checkout.calls() == []
    for name in ("pyproject.toml", "constraints.txt"):
        later = time.time() + 5
        os.utime(checkout.folder / name, (later, later))
        assert checkout.make("setup")[0] == 0
        assert len(checkout.calls()) == 2, name
        os.utime(checkout.folder / name, (1, 1))


def test_a_copied_checkout_installs_itself(checkout: Checkout, tmp_path: Path) -> None:
    checkout.make("setup")
    shutil.copytree(checkout.folder, tmp_path / "copy")
    checkout.folder = tmp_path / "copy"
    checkout.calls()
    assert checkout.make("setup")[0] == 0
    assert len(checkout.calls()) == 2


def test_docs_have_an_environment_of_their_own(checkout: Checkout) -> None:
    pins = checkout.folder / "docs" / "site" / "requirements.txt"
    pins.parent.mkdir(parents=True)
    pins.touch()
    assert checkout.make("docs") == (0, "")
    install, check, build = checkout.calls()
    assert install.endswith("--no-deps -r docs/site/requirements.txt")
    assert "-m pip check" in check
    assert build.endswith("-m mkdocs build --strict")  # with --quiet, warnings are no errors
    assert not (checkout.folder / ".venv").exists()
    assert checkout.make("docs") == (0, "")
    assert len(checkout.calls()) == 1
    assert checkout.make("clean")[0] == 0
    assert not (checkout.folder / ".venv-docs").exists()


def test_an_interrupted_or_failed_setup_is_tried_again(checkout: Checkout) -> None:
    fails = checkout.folder / ".venv" / "bin" / "fails"
    fails.parent.mkdir(parents=True)
    fails.touch()
    assert checkout.make("setup")[0] == 2
    assert len(checkout.calls()) == 1
    fails.unlink()
    assert checkout.make("setup")[0] == 0
    assert len(checkout.calls()) == 2


def test_a_cpu_torch_comes_alone_from_its_own_index(checkout: Checkout) -> None:
    checkout.make("setup", "TORCH_INDEX=https://example.org/cpu")
    torch, rest = checkout.calls()
    assert "--no-deps --index-url https://example.org/cpu torch" in torch
    assert "--index-url" not in rest


def test_train_and_test_set_up_first_and_take_arguments(checkout: Checkout) -> None:
    assert checkout.make("train", "ARGS=env.task=walker_walk planner=cem") == (0, "")
    *setup, train = checkout.calls()
    assert len(setup) == 2
    assert train == "20000 : scripts/train.py env.task=walker_walk planner=cem"
    shutil.rmtree(checkout.folder / ".venv")
    assert checkout.make("test", "ARGS=-k replay") == (0, "")
    *setup, test = checkout.calls()
    assert len(setup) == 2
    assert test == "20000 1: -m pytest -n 2 --dist worksteal -k replay"
    assert checkout.make("gpu-check", "ARGS=minutes=5 to=check") == (0, "")
    assert checkout.calls() == ["20000 : scripts/gpu_check.py minutes=5 to=check"]
    checkout.environ |= {"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "3"}
    assert checkout.make("test", "TEST_WORKERS=4")[0] == 0
    assert checkout.calls() == ["7 3: -m pytest -n 4 --dist worksteal"]


def test_a_failing_training_fails_make(checkout: Checkout) -> None:
    checkout.make("setup")
    (checkout.folder / ".venv" / "bin" / "fails").touch()
    assert checkout.make("train")[0] == 2


@pytest.mark.parametrize("found", [True, False])
def test_an_unsupported_python_is_one_sentence(found: bool, checkout: Checkout) -> None:
    if found:
        (checkout.folder / "unsupported").touch()
    else:
        checkout.python.unlink()
    status, errors = checkout.make("setup")
    assert status == 2
    sentence, *rest = errors.splitlines()
    assert sentence.startswith("error: ")
    assert "3.11 or 3.12" in sentence
    assert "PYTHON=python3.12" in sentence
    assert ("is Python 3.14.0" in sentence) == found
    assert [line.startswith("make: ***") for line in rest] == [True]
    assert not (checkout.folder / ".venv").exists()


def test_ctrl_c_reaches_the_training_and_make_waits_for_it(checkout: Checkout) -> None:
    process = checkout.start("train", "ARGS=wait=1")
    calls = checkout.folder / "calls"
    deadline = time.monotonic() + 30
    while not (calls.exists() and "up" in calls.read_text().splitlines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert checkout.calls()[-1] == "saved"
    assert process.returncode == -signal.SIGINT  # a shell calls that 130
