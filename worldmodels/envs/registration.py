"""This project's environments under names of Gymnasium's: ``gymnasium.make("worldmodels/DMC-v0", task="walker_walk")``.

They are registered when :mod:`worldmodels.envs` is imported, or :mod:`worldmodels` after Gymnasium. Nothing is loaded
before one is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from worldmodels.errors import OptionError

CLASSES = {
    "DMC": "worldmodels.envs.dmc.DMC",
    "Maze": "worldmodels.envs.maze.Maze",
    "Recall": "worldmodels.envs.recall.Recall",
    "LinearGaussian": "worldmodels.envs.toy.LinearGaussian",
    "Chain": "worldmodels.envs.toy.Chain",
}
"""Class behind each name."""


def register() -> None:
    """Make the names known to Gymnasium. Time limits are the environments' own."""
    for name, target in CLASSES.items():
        if f"worldmodels/{name}-v0" not in gymnasium.registry:
            entry_point = f"{__name__}:make_registered"
            gymnasium.register(f"worldmodels/{name}-v0", entry_point=entry_point, kwargs={"class_name": target})


def make_registered(class_name: str, render_mode: str | None = None, **options: Any) -> gymnasium.Env:
    """Make an environment with options of its class. It draws as ``rgb_array`` or not at all."""
    from worldmodels.common.build import find

    made = find(class_name)
    if render_mode is not None and render_mode not in made.metadata["render_modes"]:
        reason = f"is no way in which {made.__name__} draws"
        raise OptionError("render_mode", render_mode, reason, allowed=tuple(made.metadata["render_modes"]))
    return made(**options)
