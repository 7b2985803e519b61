"""This project's environments under names of Gymnasium's: ``gymnasium.make("worldmodels/DMC-v0", task="walker_walk")``.

They are registered when :mod:`worldmodels` is imported. Nothing is loaded before one is made.
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
LIBRARIES = {
    "Atari": "atari",
    "MiniGrid": "minigrid",
    "POPGym": "popgym",
    "MemoryMaze": "MemoryMaze",
    "OGBench": "ogbench",
    "Crafter": "Crafter",
}
"""What makes the environments of other libraries, in :mod:`worldmodels.envs.libraries`."""


def register() -> None:
    """Make the names known to Gymnasium. Time limits are the environments' own."""
    for name, target in CLASSES.items():
        if f"worldmodels/{name}-v0" not in gymnasium.registry:
            entry_point = f"{__name__}:make_registered"
            gymnasium.register(f"worldmodels/{name}-v0", entry_point=entry_point, kwargs={"class_name": target})
    for name, maker in LIBRARIES.items():
        if f"worldmodels/{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"worldmodels/{name}-v0", entry_point=f"worldmodels.envs.libraries:{maker}")


def make_registered(class_name: str, render_mode: str | None = None, **options: Any) -> gymnasium.Env:
    """Make an environment with options of its class. It draws as ``rgb_array`` or not at all."""
    from worldmodels.common.build import find

    made = find(class_name)
    modes = tuple(getattr(made, "metadata", {}).get("render_modes", ("rgb_array",)))
    if render_mode is not None and render_mode not in modes:
        raise OptionError("render_mode", render_mode, f"is no way in which {made.__name__} draws", allowed=modes)
    return made(**options)
