"""Hydra's own main: several runs of one command, yaml files of one's own."""

from __future__ import annotations

import errno

import pytest
from omegaconf import OmegaConf
from toy_runs import WORDS

from worldmodels.commands.console import with_search_path
from worldmodels.common.terminal import Interrupted
from worldmodels.config import load_config
from worldmodels.errors import UserError
from worldmodels.training.hydra_main import run_hydra


@pytest.mark.process
def test_a_multirun_makes_a_run_of_each_value(said, unscored, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*WORDS, "frames=90", "planner=mine", "--config-dir", str(own))
    assert said.exit("train", "-m", "seed=0,1", "run_dir=runs/é=${seed}", *words) == (0, "")
    assert [OmegaConf.load(tmp_path / "runs" / f"é={seed}" / "config.yaml").seed for seed in "01"] == [0, 1]
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


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["loss_scales.dyn=1,2"], [["++loss_scales.dyn=1"], ["++loss_scales.dyn=2"]]),
        (["planner.beta=0.5"], [["planner.noise_beta=0.5"]]),
        (["space=gaussian,categorical"], [["latent=gaussian"], ["latent=categorical"]]),
        (
            ["planner=mppi,cem", "planner.beta=0.5"],
            [["planner=mppi", "planner.noise_beta=0.5"], ["planner=cem", "planner.noise_beta=0.5"]],
        ),
    ],
    ids=lambda words: words[-1] if isinstance(words[0], str) else "",
)
def test_a_multirun_takes_the_words_of_one_run(words, runs, tmp_path, monkeypatch):
    """Renamed ones, and factors of losses, which the root lacks."""
    monkeypatch.chdir(tmp_path)
    begun = []
    run_hydra(["-m", *words], begun.append)
    assert begun == runs
    assert load_config(begun[0])


def test_a_printed_configuration_takes_the_words_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_hydra(["--cfg", "job", "loss_scales.dyn=0.3", "planner.beta=0.7"], print)
    printed = OmegaConf.create(capsys.readouterr().out)
    assert (printed.loss_scales.dyn, printed.planner.noise_beta) == (0.3, 0.7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["planner=mppi,cem", "planner.typo=1"], "there is no key 'planner.typo'"),
        (["planner=mppi,cme", "planner.gamma=1"], "planner=cme is not one of .* Did you mean 'cem'"),
        (["planner=mppi,cme", "planner.beta=1"], "planner=cme is not one of .* Did you mean 'cem'"),
        (["planner=glob(mpp*)", "planner.typo=1"], "there is no key 'planner.typo'"),
    ],
)
def test_a_mistake_beside_swept_files_is_the_one_named(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{sentence}"):
        run_hydra(["-m", *words], print)


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
