"""Run folders and configurations of strangers: whatever they name, nothing of it is called, imported or unpickled."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from attacks import filled, lay_out, put
from omegaconf import OmegaConf
from toy_runs import WORDS

from worldmodels.errors import UserError
from worldmodels.runs.loading import load_run
from worldmodels.training.run import train

ATTACKS = {file.stem: file for file in sorted((Path(__file__).parent / "attacks").glob("*.yaml"))}
COMMANDS = {
    "evaluate": ("evaluate", "run=RUN"),
    "oracle": ("evaluate", "run=RUN", "model=oracle"),
    "imagine": ("imagine", "run=RUN"),
    "compare": ("compare", "runs=[RUN]", "to=RUN/compared"),
    "sweep": ("sweep", "run=RUN", "over=planner.plan_horizon", "values=2,3", "to=RUN/swept"),
    "collect": ("collect", "run=RUN", "to=RUN/collected", "frames=4"),
    "resume": ("train", "resume=RUN"),
    "world_model": ("train", "world_model=RUN", "planner=actor_critic"),
    "multirun": ("train", "-m", "resume=RUN", "seed=0,1"),
    "data": ("train", "data=RUN", "env=counter", "env.num_envs=2", "env.obs=both", "run_dir=RUN/learned"),
}
IMPORTED = ("env_module", "env_hyphen")
"""Attacks by what Gymnasium imports."""
TELLING = ("core", "list", "reexported", "resolver", "searchpath_package", "stored_assembled", "stored_learner")
"""Attacks that every command is tried with."""


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The file that an attack writes, beside the files that attacks name, in a folder where Python finds modules."""
    lay_out(tmp_path, tmp_path / "canary")
    monkeypatch.syspath_prepend(tmp_path)
    OmegaConf.register_new_resolver("anything", lambda path: Path(path).touch())
    yield tmp_path / "canary"
    OmegaConf.clear_resolver("anything")
    forget(tmp_path / "canary")


def forget(canary: Path) -> None:
    """Nothing of an attack has happened yet."""
    canary.unlink(missing_ok=True)
    for name in ("stranger", "strange-r", "package"):
        sys.modules.pop(name, None)


def attacked(run: Path, name: str, canary: Path) -> tuple[list[str], dict]:
    """Put an attack into a run folder. Return its words and nodes."""
    attack = OmegaConf.to_container(OmegaConf.create(filled(ATTACKS[name].read_text(), canary.parent, canary)))
    put(run, attack.get("words", []), attack.get("nodes", {}))
    forget(canary)
    return attack.get("words", []), attack.get("nodes", {})


def test_what_is_tried_covers_every_place(canary, run_folder):
    """What an attack writes, it does write, if it is let."""
    assert len(ATTACKS) > 35
    __import__("stranger")
    assert canary.exists()


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - set(IMPORTED)))  # which are built when they are played in
def test_a_run_of_a_strangers_is_not_loaded(name, canary, run_folder):
    attacked(run_folder, name, canary)
    with pytest.raises(UserError) as refused:
        load_run(run_folder)
    assert not canary.exists()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_of_a_strangers_is_not_resumed(name, canary, run_folder):
    attacked(run_folder, name, canary)
    with pytest.raises(UserError):
        train([f"resume={run_folder}", "frames=140"])
    assert not canary.exists()


@pytest.mark.parametrize("name", [name for name in ATTACKS if not name.startswith("stored")])
def test_words_of_a_strangers_run_nothing(name, canary, run_folder):
    words, _ = attacked(run_folder, name, canary)
    with pytest.raises(UserError):
        train([*WORDS, f"run_dir={canary.parent / 'new'}", *words])
    assert not canary.exists()


@pytest.mark.parametrize("name", IMPORTED)
def test_an_environment_is_no_module_of_a_strangers(name, canary, run_folder, said):
    attacked(run_folder, name, canary)
    refusal = said.refusal("evaluate", f"run={run_folder}")
    assert re.search(r"env.id=strange-?r.Any-v0 is no part", refusal), refusal
    assert not canary.exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", TELLING)
def test_no_command_runs_what_a_run_names(name, command, canary, run_folder, said):
    attacked(run_folder, name, canary)
    script, *words = (word.replace("RUN", str(run_folder)) for word in COMMANDS[command])
    assert said.refusal(script, *words)
    assert not canary.exists()
