"""A wheel in an environment of its own: the command is there, finds its configurations, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from places import ROOT
from toy_runs import WORDS


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment that holds our wheel alone; what it requires is borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    target = sysconfig.get_path("purelib", vars={"base": str(folder / "env")})
    place = [sys.executable, "-m", "pip", "--python", folder / "env" / "bin" / "python", "install", "-q", "--no-deps"]
    subprocess.run([*place, wheel], check=True, capture_output=True)
    assert (Path(target) / "worldmodels" / "configs" / "train.yaml").is_file()
    return folder / "env" / "bin" / "worldmodels"


@pytest.mark.process
def test_a_wheel_trains(installed, tmp_path):
    """From a folder that is no checkout; paths of the editable install are not read from ``PYTHONPATH``."""
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    words = [*WORDS, f"run_dir={tmp_path / 'run'}"]
    run = subprocess.run([installed, "train", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "evaluation.json").is_file()
    help_text = subprocess.run(
        [installed, "--help"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "evaluate   Score a trained run" in help_text
