"""An environment in a file of the present folder is found by the checker, by training and by the console alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, SUPPORT

pytestmark = pytest.mark.process

TRAIN = [str(ROOT / "scripts" / "train.py")]
CONSOLE = ["-c", "import sys; sys.path.pop(0); from worldmodels.commands.console import console; console()", "train"]
WORDS = ["env=gym", "env.obs=state", "frames=1", "prefill=1", "run_dir=made"]


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copy(SUPPORT / "odd_envs.py", tmp_path / "my_envs.py")
    return tmp_path


def said(folder: Path, command: list[str], words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command, *words],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "WORLDMODELS_TRUST"} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("command", [TRAIN, CONSOLE], ids=["script", "console"])
def test_training_finds_what_lies_in_the_present_folder(folder, command):
    """Its mistake is the last one of all, found when the environment has told its spaces."""
    text = said(folder, command, [*WORDS, "env.id=my_envs:Odd-v0", "trust=[my_envs]"])
    assert "frames=1 keeps 2 rows" in text
    assert "say trust=[my_envs]" in said(folder, command, [*WORDS, "env.id=my_envs:Odd-v0"])


def test_a_class_of_the_present_folder_is_found_by_its_name(folder):
    (folder / "mine.py").write_text("from worldmodels.envs.toy import Chain\n\n\nclass Mine(Chain):\n    pass\n")
    text = said(folder, TRAIN, ["env=chain", "env._target_=mine.Mine", *WORDS[2:], "trust=[mine]"])
    assert "frames=1 keeps 2 rows" in text


def test_the_checker_trusts_what_it_is_asked_about(folder):
    text = said(
        folder,
        ["-m", "worldmodels.envs.check"],
        ["_target_=worldmodels.envs.gym.GymEnv", "id=my_envs:Odd-v0", "obs=state"],
    )
    assert text.count("ok  ") == 5
