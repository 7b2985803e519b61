"""Environments of other libraries that take more than a name: published wrappers, or an adapter to Gymnasium.

Each is a function that Gymnasium makes by an id of ours (:mod:`worldmodels.envs.registration`). The libraries are
optional: what lacks one says how to get it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.errors import OptionError, UserError, brief, near_match

EXTRA = "environments"
"""The extra that installs all of them."""
MAZES = ("9x9", "11x11", "13x13", "15x15")


def library(name: str, extra: str = EXTRA) -> types.ModuleType:
    """Import a library. Raise ``UserError`` where it is not installed, which says the extra that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this environment takes {name} ({brief(error)}): pip install 'worldmodels[{extra}]'."
        ) from error


def atari(
    game: str = "pong",
    size: int = 64,
    sticky: float = 0.25,
    frame_skip: int = 4,
    noops: int = 0,
    grayscale: bool = False,
    all_actions: bool = False,
    life_ends: bool = False,
) -> gymnasium.Env:
    """Make an Atari game: the greatest of the last two of ``frame_skip`` frames, as Mnih et al. (2015) show it.

    ``sticky``: how often the last action is repeated (Machado et al. 2018: 0.25; Atari 100k: 0). ``noops``: at most so
    many idle steps in the beginning (30 with Atari 100k). ``life_ends``: a lost life ends an episode.
    """
    ale = library("ale_py")
    gymnasium.register_envs(ale)
    known = ale.roms.get_all_rom_ids()
    if game not in known:
        raise OptionError("kwargs.game", game, "is not a game of ale_py", hint=near_match(game, known))
    inner = gymnasium.make(
        "ALE/" + "".join(part.capitalize() for part in game.split("_")) + "-v5",
        frameskip=1,
        repeat_action_probability=sticky,
        full_action_space=all_actions,
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    return gymnasium.wrappers.AtariPreprocessing(
        inner, noops, frame_skip, size, life_ends, grayscale, grayscale_newaxis=grayscale
    )


class Crafter(gymnasium.Env):
    """Crafter (Hafner 2021) behind Gymnasium's interface. ``info["success"]`` says whether all 22 were unlocked."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - as Gymnasium declares it
    render_mode = "rgb_array"

    def __init__(self, size: int = 64, reward: bool = True, length: int = 10000) -> None:
        self._make = lambda seed: library("crafter").Env(size=(size, size), reward=reward, length=length, seed=seed)
        self._env = self._make(0)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._env.action_names))

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._env = self._make(seed)
        return self._env.reset(), {}

    @override
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        image, reward, over, info = self._env.step(int(action))
        dead = info["discount"] == 0
        unlocked = {f"unlocked_{name}": float(count > 0) for name, count in info["achievements"].items()}
        return image, float(reward), dead, over and not dead, {"success": all(unlocked.values()), **unlocked}

    @override
    def render(self) -> np.ndarray:
        return self._env.render()


class MemoryMaze(gymnasium.Env):
    """Memory Maze (Pasukonis et al. 2022) behind Gymnasium's interface: the colour to find is the image's border.

    Every seed is a maze of its own, built anew, which takes a second or more.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as Gymnasium declares it
    render_mode = "rgb_array"

    def __init__(self, maze: str = "9x9", size: int = 64, **options: Any) -> None:
        if maze not in MAZES:
            raise OptionError("kwargs.maze", maze, "is none of the published mazes", allowed=MAZES)
        make = getattr(_memory_maze_tasks(), f"memory_maze_{maze}")
        self._make = lambda seed: make(image_only_obs=True, camera_resolution=size, seed=seed, **options)
        self._env, self._image = self._make(0), np.zeros((size, size, 3), np.uint8)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(self._env.action_spec().num_values)

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._env.close()
            self._env = self._make(seed)
        self._image = self._env.reset().observation
        return self._image, {}

    @override
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        step = self._env.step(int(action))
        self._image = step.observation
        dead = step.last() and step.discount == 0
        return self._image, float(step.reward), dead, step.last() and not dead, {}

    @override
    def render(self) -> np.ndarray:
        return self._image

    @override
    def close(self) -> None:
        self._env.close()


def _memory_maze_tasks() -> types.ModuleType:
    """Import ``memory_maze.tasks`` alone: its package imports Gym, which nobody maintains, and only to register ids."""
    if "memory_maze" not in sys.modules:
        found = importlib.util.find_spec("memory_maze")
        if found is None:
            raise UserError(f"this environment takes memory_maze: pip install 'worldmodels[{EXTRA}]'.")
        package = types.ModuleType("memory_maze")
        package.__path__ = list(found.submodule_search_locations or [])
        sys.modules["memory_maze"] = package
    return library("memory_maze.tasks")


def popgym(task: str = "RepeatPreviousEasy") -> gymnasium.Env:
    """Make a task of POPGym (Morad et al. 2023) by the name of its class."""
    envs = library("popgym.envs")
    known = {kind.__name__: kind for kind in envs.ALL}
    if task not in known:
        raise OptionError("kwargs.task", task, "is not a task of POPGym", hint=near_match(task, known))
    return known[task]()


def minigrid(level: str = "MiniGrid-DoorKey-5x5-v0", whole: bool = False, tile: int = 8) -> gymnasium.Env:
    """Make a MiniGrid level that shows its view, or the ``whole`` grid, as an image of ``tile`` pixels a cell."""
    package = library("minigrid")
    with contextlib.suppress(AttributeError):
        gymnasium.register_envs(package)
    if level not in gymnasium.registry:
        known = [name for name in gymnasium.registry if name.startswith(("MiniGrid", "BabyAI"))]
        raise OptionError("kwargs.level", level, "is not a level of MiniGrid", hint=near_match(level, known))
    wrappers = library("minigrid.wrappers")
    inner = gymnasium.make(level, render_mode="rgb_array", disable_env_checker=True)
    shown = wrappers.RGBImgObsWrapper(inner, tile) if whole else wrappers.RGBImgPartialObsWrapper(inner, tile)
    return wrappers.ImgObsWrapper(shown)


class GlobalStream(gymnasium.Wrapper):
    """An environment that draws from NumPy's global stream, which a reset with a seed therefore seeds too."""

    @override
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002 - the environment's own choice
        return self.env.reset(seed=seed, options=options)


def ogbench(task: str = "pointmaze-medium-singletask-v0", **options: Any) -> gymnasium.Env:
    """Make an environment of OGBench (Park et al. 2025). ``singletask`` has one goal; of others it is in ``info``."""
    library("ogbench")
    if task not in gymnasium.registry:
        known = [name for name, spec in gymnasium.registry.items() if "ogbench" in str(spec.entry_point)]
        raise OptionError("kwargs.task", task, "is not an environment of OGBench", hint=near_match(task, known))
    return GlobalStream(gymnasium.make(task, render_mode="rgb_array", disable_env_checker=True, **options))
