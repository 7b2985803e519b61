"""N + M updates in one go are those of N, a save or a kill, and M more, to the last bit."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from dynamics_cases import subjects
from places import SUPPORT
from toy_runs import UPDATES, At, built, same, stop, trained

from worldmodels.common.terminal import CtrlC
from worldmodels.data import collect, prefetch
from worldmodels.data.prefetch import Batches
from worldmodels.runs.folders import read_checkpoint
from worldmodels.training.run import fit

pytestmark = pytest.mark.process

CONTEXTS = {
    "none": (),
    "latent": ("data.context=latent",),
    "burn_in": ("data.context=burn_in", "data.burn_in=3"),
    "published": ("env=chain", "env.num_envs=2", "optimizer=laprop", "latent=categorical"),
}
"""Words of trainings: each context, and discrete actions with the published latents and optimiser."""

LEARNED = {
    "actor_critic": ("planner.imag_horizon=3",),
    "tdmpc": ("dynamics=implicit", "planner.search.num_samples=32", "planner.search.num_elites=4"),
    "diffusion": ("planner.plan_horizon=4", "planner.acting.replan_every=2", "planner.acting.steps=2"),
}
"""Planners that learn and their words; diffusion keeps running statistics."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The weights at the end of a whole training, by its name; each is made once, where it is asked for."""
    folder = tmp_path_factory.mktemp("whole")
    return cache(lambda name: trained(folder / name, *CONTEXTS[name]))


def last(folder: Path) -> str:
    return str(folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "context", [pytest.param(name, marks=[pytest.mark.slow] if name == "published" else []) for name in CONTEXTS]
)
def test_an_orderly_save_and_the_rest_equal_one_run(uninterrupted, tmp_path, context):
    words = CONTEXTS[context]
    half = trained(tmp_path, *words, at=[At(11, stop)])
    assert not same(half, uninterrupted(context))
    assert read_checkpoint(tmp_path)["counters"]["updates"] == 11
    assert same(trained(tmp_path, *words, checkpoint=last(tmp_path)), uninterrupted(context))


@pytest.mark.parametrize("name", sorted({subject.name for subject in subjects()} - {"rssm"}))
def test_every_backbone_acts_trains_saves_and_resumes(tmp_path, name):
    """With its memories kept in replay and in checkpoints: rings, complex states, convolution windows."""
    words = (f"dynamics={name}", "data.context=latent", "frames=90")
    whole = trained(tmp_path / "whole", *words)
    trained(tmp_path / "half", *words, at=[At(7, stop)])
    assert same(trained(tmp_path / "half", *words, checkpoint=last(tmp_path / "half")), whole)


@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_planner_resumes_to_the_same_weights(tmp_path, name):
    """Moving averages and slow copies included, a stopped and resumed run ends as one that was never stopped."""
    words = (f"planner={name}", *LEARNED[name], "frames=90")
    whole = trained(tmp_path / "whole", *words)
    trained(tmp_path / "half", *words, at=[At(7, stop)])
    assert same(trained(tmp_path / "half", *words, checkpoint=last(tmp_path / "half")), whole)


@pytest.mark.parametrize("context", ["none", "latent"])
def test_batches_read_ahead_change_no_training(tmp_path, monkeypatch, context):
    """Nor what it resumes to: as on a GPU, where four updates follow one another and two do, while workers step."""
    words = (*CONTEXTS[context], "train_ratio=48", "frames=90")
    whole = trained(tmp_path / "whole", *words)
    taken = Mock(wraps=Batches.read_ahead)
    monkeypatch.setattr(Batches, "read_ahead", lambda batches: taken(batches))
    for module in (prefetch, collect):
        monkeypatch.setattr(module, "pays", lambda device: True)
    trained(tmp_path / "half", *words, at=[At(10, stop)])
    assert 5 < taken.call_count < 10
    assert same(trained(tmp_path / "half", *words, checkpoint=last(tmp_path / "half")), whole)


def test_run_killed_after_a_checkpoint_resumes_to_the_same_end(uninterrupted, tmp_path):
    """The updates between the checkpoint and the kill are made again with the same results."""
    command = [sys.executable, str(SUPPORT / "killed_run.py"), str(tmp_path), "8", "17"]
    assert subprocess.run(command, capture_output=True).returncode == -9
    assert read_checkpoint(tmp_path)["counters"]["updates"] == 8
    assert same(trained(tmp_path, checkpoint=last(tmp_path)), uninterrupted("none"))


def killed(folder: Path, copy: Path, *words: str, save: int, kill: int) -> None:
    """What a kill leaves on the disk, without the cost of a process: a copy made in mid-training."""
    at = [
        At(save, lambda t: t.checkpoints.save(t.trainer)),
        At(kill, lambda t: shutil.copytree(folder, copy)),
        At(kill, stop),
    ]
    trained(folder, *words, at=at)
    shutil.rmtree(folder)


def test_after_a_kill_stored_latents_continue_exactly_too(uninterrupted, tmp_path):
    killed(tmp_path / "a", tmp_path / "b", *CONTEXTS["latent"], save=8, kill=17)
    end = trained(tmp_path / "b", *CONTEXTS["latent"], checkpoint=last(tmp_path / "b"))
    assert same(end, uninterrupted("latent"))


def test_wrapped_ring__newer_rows_are_dropped_and_told(tmp_path, caplog):
    """The log counts them and the older rows that they overwrote, and the resumed run trains to its end."""
    words = ("data.capacity=50",)
    killed(tmp_path / "a", tmp_path / "b", *words, save=8, kill=17)
    with caplog.at_level(logging.INFO), built(tmp_path / "b", *words) as training:
        state = read_checkpoint(tmp_path / "b")["OnlineData"]
        training.data.load_state_dict(state)
        dataset = training.data.dataset
        assert dataset.updates == 8
        kept = len(dataset.replay)
    dropped = int(next(r for r in caplog.records if "newer than the checkpoint are dropped" in r.message).args[0])
    lost = 50 - kept
    assert 0 < lost == dropped
    assert f"{lost} of the checkpoint's 50 rows have been lost or overwritten" in caplog.text
    trained(tmp_path / "b", *words, checkpoint=last(tmp_path / "b"))
    assert read_checkpoint(tmp_path / "b")["counters"]["updates"] == UPDATES


class PressedWhilePrefilling(CtrlC):
    """A Ctrl-C that comes once twenty decisions are recorded."""

    training = None

    @property
    def pressed(self) -> bool:
        return self.training is not None and self.training.data.dataset.collector.decisions >= 20

    @pressed.setter
    def pressed(self, value: bool) -> None:
        assert not value


def test_stopping_while_prefilling_resumes_to_the_same_end(uninterrupted, tmp_path):
    ctrl_c = PressedWhilePrefilling()
    with built(tmp_path, ctrl_c=ctrl_c) as training:
        ctrl_c.training = training
        fit(training, None)
        assert training.data.dataset.updates == 0
        assert 20 <= training.data.dataset.collector.decisions < 24
    assert same(trained(tmp_path, checkpoint=last(tmp_path)), uninterrupted("none"))


def test_progress_bar_of_a_resumed_run_knows_what_is_left(tmp_path, capsys):
    """It goes on to the run's number of updates, does not begin at zero and always shows the total."""
    trained(tmp_path, at=[At(10, stop)])
    assert f"10/{UPDATES}" in capsys.readouterr().out
    trained(tmp_path, checkpoint=last(tmp_path))
    shown = capsys.readouterr().out
    assert f"{UPDATES}/{UPDATES}" in shown
    assert "/?" not in shown
    assert f" 0/{UPDATES}" not in shown


def test_checkpoint__holds_plain_containers_only(tmp_path):
    """It loads with weights_only, has counters of its own, and leaves no half-written file beside it."""
    trained(tmp_path, at=[At(5, stop)])
    checkpoint = torch.load(last(tmp_path), weights_only=True)
    decisions = checkpoint["counters"]["decisions"]
    expected = {"updates": 5, "decisions": decisions, "frames": decisions, "clock": decisions}
    assert checkpoint["counters"] == expected
    assert decisions == checkpoint["OnlineData"]["collector"]["decisions"]
    assert not list((tmp_path / "checkpoints").glob("writing*"))
