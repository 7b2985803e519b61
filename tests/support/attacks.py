"""What a stranger might put into a run folder or a recording; all of it writes a file, ``CANARY``, if it ever runs."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from worldmodels.config import config_dir

MODULE = """
import os
from pathlib import Path

from torch import nn

Path({canary!r}).touch()


class Thing(nn.Module):
    def __init__(self, **options):
        super().__init__()


def run(*args, **options):
    pass
"""
"""A module that lies where Python looks for modules, as the folder does in which one works. Its import is enough."""


class Opened:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def lay_out(folder: Path, canary: Path) -> None:
    """Write the files that attacks name: a module, a package, a pickle and yamls of groups."""
    for name in ("stranger", "strange-r"):
        (folder / f"{name}.py").write_text(MODULE.format(canary=str(canary)))
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text(MODULE.format(canary=str(canary)))
    (folder / "opened.pkl").write_bytes(pickle.dumps(Opened(canary)))
    (folder / "yamls" / "planner").mkdir(parents=True)
    (folder / "yamls" / "planner" / "theirs.yaml").write_text("_target_: stranger.Thing\n")
    (folder / "yamls" / "planner" / "asked.yaml").write_text(
        "defaults:\n  - \"${anything:'" + str(canary) + "'}\"\n_target_: planners.random.Random\n"
    )


def filled(text: str, folder: Path, canary: Path) -> str:
    """An attack's text with the paths of this test in it."""
    return text.replace("FOLDER", str(folder)).replace("CANARY", str(canary))


def put(run: Path, words: list[str], nodes: dict[str, Any]) -> None:
    """Add words, and nodes by their place, to what a run folder stores of its configuration, so that both agree."""
    stored = OmegaConf.load(run / "config.yaml")
    stored.words = [*stored.words, *words]
    with suppress(Exception), initialize_config_dir(str(config_dir()), version_base=None):
        stored.update(OmegaConf.to_container(compose("train", list(stored.words)), resolve=True))
    for place, node in nodes.items():
        OmegaConf.update(stored, place, node, merge=False, force_add=True)
    OmegaConf.save(stored, run / "config.yaml")
