"""Fixtures that several files share."""

from __future__ import annotations

import multiprocessing.process
import shutil
import subprocess
from pathlib import Path

import glfw  # noqa: F401 - which mazes bring; it asks for its version in a process, here where no test is watched
import pytest
from hypothesis import settings
from places import CONFIGS, ROOT

from worldmodels.common.trust import extend_trust
from worldmodels.envs.rendering import choose_backend

extend_trust(file.stem for file in (ROOT / "tests").rglob("*.py"))  # parts that tests bring, in workers too
choose_backend()  # before any test file imports dm_control, which decides once and for all how to draw


# The same few examples every time: what fails here fails everywhere, and no run leaves anything for the next.
settings.register_profile("tests", derandomize=True, deadline=None, max_examples=10, database=None)
settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption("--grid", action="store_true", help="every backbone x planner x kind of action and observation")
    parser.addoption("--all", action="store_true", help="also the tests marked slow, which cost more than they tell")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """Mark what reads a trained run, whose environments are processes; leave slow tests out unless asked for."""
    for item in items:
        if "finished_run" in item.fixturenames:
            item.add_marker(pytest.mark.process)
    if config.getoption("--all"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Fail a test, or its fixtures, that starts processes without being marked so: `make test-fast` would run it."""
    if item.get_closest_marker("process"):
        return (yield)

    def refuse(*_, **__):
        pytest.fail("this test starts a process: mark it with pytest.mark.process")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(subprocess.Popen, "__init__", refuse)
        return (yield)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A run folder that a whole training left behind; to be read only."""
    from toy_runs import WORDS

    from worldmodels.training.run import train

    folder = tmp_path_factory.mktemp("finished") / "run"
    train([*WORDS, f"run_dir={folder}"])
    return folder


@pytest.fixture
def run_folder(finished_run, tmp_path) -> Path:
    """A copy of a finished run, to do with as one likes."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs scripts in this process and says how they ended."""
    from toy_runs import Said

    return Said(monkeypatch, capsys)


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder with a file of one's own for a group, ``planner=mine``."""
    (tmp_path / "own" / "planner").mkdir(parents=True)
    shutil.copy(CONFIGS / "planner" / "mppi.yaml", tmp_path / "own" / "planner" / "mine.yaml")
    return tmp_path / "own"


@pytest.fixture
def unscored(monkeypatch) -> None:
    """Trainings end without being scored, which takes longer than they do."""
    monkeypatch.setattr("worldmodels.training.run.score_finished", lambda *_: None)


@pytest.fixture(params=["float64", "float32"])
def precision(request):
    """The type of numbers that modules are built with."""
    import torch

    before, kind = torch.get_default_dtype(), getattr(torch, request.param)
    torch.set_default_dtype(kind)
    yield kind
    torch.set_default_dtype(before)
