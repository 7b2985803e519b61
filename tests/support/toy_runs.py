"""Runs on a toy environment that take seconds, for the tests of the loop, the scripts and what they say."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
import pytest
import torch
from places import ROOT, SUPPORT

from worldmodels.commands.console import run
from worldmodels.common.terminal import CtrlC
from worldmodels.config import load_config
from worldmodels.training.run import fit
from worldmodels.training.setup import Training, assemble

ENV = ("env=counter", "env.num_envs=2", "env.obs=both")
TINY = (
    "size.deter=32",
    "size.hidden=16",
    "size.blocks=4",
    "size.groups=4",
    "size.classes=5",
    "size.depth=2",
    "size.units=16",
    "size.layers=1",
    "planner.num_samples=8",
    "planner.num_elites=4",
    "planner.iterations=1",
    "planner.plan_horizon=3",
    "planner.replan_every=2",
    "data.batch_size=4",
    "data.length=8",
    "train_ratio=16",
    "trainer.threads=1",
    "trainer.log_every=1",
)
SHORT = ("frames=120", "prefill=60", "trainer.video_every=7")
"""30 updates: 16 steps a decision, 32 an update, 60 decisions after the prefill."""
UPDATES = 30
EVALUATION = ("evaluation.episodes=2", "evaluation.context=2", "evaluation.imag_horizon=3")
REST = (*TINY, *SHORT, *EVALUATION)
WORDS = (*ENV, *REST)


class At(lightning.Callback):
    """Does something after update number ``update``."""

    def __init__(self, update: int, do: Callable[[Training], None]) -> None:
        self.update, self.do = update, do
        self.training: Training | None = None

    def on_train_batch_end(self, *_) -> None:
        if self.training.data.dataset.updates == self.update:
            self.do(self.training)


def stop(training: Training) -> None:
    training.trainer.should_stop = True


@contextmanager
def built(folder: Path, *words: str, ctrl_c: CtrlC | None = None) -> Iterator[Training]:
    """A training as `scripts/train.py` puts it together."""
    env = () if any(word.startswith("env=") for word in words) else ENV
    other = any(word.startswith("planner=") for word in words)  # which mppi's options do not fit
    rest = [word for word in REST if not (other and word.startswith("planner."))]
    cfg = load_config([*env, *rest, *words])
    torch.set_num_threads(1)
    lightning.seed_everything(cfg.seed, verbose=False)
    with assemble(cfg, folder, ctrl_c or CtrlC()) as training:
        yield training


def trained(folder: Path, *words: str, at: Iterable[At] = (), checkpoint: str | None = None) -> dict[str, torch.Tensor]:
    """Train to the end, or until a callback stops it; the weights it ends with."""
    with built(folder, *words) as training:
        for callback in at:
            callback.training = training
            callbacks = training.trainer.callbacks
            callbacks.insert(callbacks.index(training.checkpoints), callback)  # before the one that saves
        fit(training, checkpoint)
        return {key: value.clone() for key, value in training.module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def script(name: str) -> Callable[[list[str]], None]:
    """The `main` of a command."""
    return importlib.import_module(f"worldmodels.commands.{name}").main


class Said:
    """Runs scripts in this process as their command line would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def exit(self, name: str, *words: str) -> tuple[int, str]:
        """Exit status and stderr."""
        self.monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *words])
        self.capsys.readouterr()
        console = logging.StreamHandler(sys.stdout)  # which `run` adds where pytest has none of its own
        logging.getLogger().addHandler(console)
        try:
            with pytest.raises(SystemExit) as caught:
                run(script(name))
        finally:
            logging.getLogger().removeHandler(console)
        return caught.value.code, self.capsys.readouterr().err

    def refusal(self, name: str, *words: str) -> str:
        """The one sentence on stderr of a script that must end with status 1."""
        status, error = self.exit(name, *words)
        assert status == 1, error
        assert error.startswith("error: "), error
        assert error.count("\n") == 1, error
        return error.removeprefix("error: ").strip()


def spawn(name: str, *words: str, **options) -> subprocess.Popen:
    """A script as a process group of its own, without anything of pytest's."""
    here = os.pathsep.join((str(ROOT), str(SUPPORT)))  # this checkout, whichever is installed
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
        **options,
    )
