"""Hydra's own main: several runs of one command, yaml files of one's own."""

from __future__ import annotations

import errno
import shutil

import pytest
from omegaconf import OmegaConf
from places import CONFIGS
from toy_runs import WORDS

from worldmodels.cli import Interrupted, with_search_path
from worldmodels.config import load_config
from worldmodels.errors import UserError
from worldmodels.training.sweeps import run_hydra


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own" / "planner").mkdir(parents=True)
    shutil.copy(CONFIGS / "planner" / "mppi.yaml", tmp_path / "own" / "planner" / "mine.yaml")
    return tmp_path / "own"


@pytest.mark.process
def test_a_multirun_makes_a_run_of_each_value(said, unscored, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*WORDS, "frames=90", "planner=mine", "--config-dir", str(own))
    assert said.exit("train", "-m", "seed=0,1", "run_dir=runs/${seed}", *words) == (0, "")
    assert [OmegaConf.load(tmp_path / "runs" / seed / "config.yaml").seed for seed in "01"] == [0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"own", "runs"}


def test_a_mistake_in_a_multirun_is_a_sentence(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, error = said.exit("train", "-m", "frmes=1,2")
    assert (status, error) == (1, "error: there is no key 'frmes'. Did you mean 'frames'?\n")
    assert said.refusal("train", "-m", "seed=-1,-2", *WORDS).startswith("seed=-1 must be a whole number")


@pytest.mark.parametrize(
    "error", [UserError("a mistake"), Interrupted(), OSError(errno.ENOSPC, "full"), KeyError("a bug")]
)
def test_the_first_error_ends_a_multirun(error, tmp_path, monkeypatch, capfd):
    """It is raised as it is, no run follows, and nothing of Hydra's is printed."""
    monkeypatch.chdir(tmp_path)
    begun = []

    def job(words):
        begun.append(words)
        raise error

    with pytest.raises(type(error)) as caught:
        run_hydra(["-m", "seed=1,2"], job)
    assert caught.value is error
    assert begun == [["seed=1"]]
    assert capfd.readouterr().err == ""


def test_a_configuration_is_printed(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said.exit("train", "--cfg", "job", "seed=7")[0] == 0
    assert not list(tmp_path.iterdir())


def test_a_run_remembers_the_folder_of_its_files(own):
    cfg = load_config(["planner=mine"], config_dir=own)
    assert cfg.choices.planner == "mine"
    assert load_config(list(cfg.words)) == cfg


def test_a_folder_that_is_none_is_refused(tmp_path):
    for words in (["--config-dir"], ["--config-dir", str(tmp_path / "none")]):
        with pytest.raises(UserError):
            with_search_path(words)
