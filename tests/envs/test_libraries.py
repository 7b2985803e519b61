"""Environments of other libraries: what they are made with, that they repeat themselves, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from gymnasium import spaces
from omegaconf import OmegaConf
from places import CONFIGS

from worldmodels.envs import libraries, make
from worldmodels.envs.base import check_spaces
from worldmodels.errors import OptionError, UserError

PACKAGES = {
    "atari": "ale_py",
    "minigrid": "minigrid",
    "popgym": "popgym",
    "ogbench": "ogbench",
    "crafter": "crafter",
    "memory_maze": "memory_maze",
}
"""Group to the package that it takes."""
COSTS = {"memory_maze": (pytest.mark.slow,)}
"""A maze of its own for every seed takes seconds."""


def needs(group: str) -> pytest.MarkDecorator:
    package = PACKAGES[group]
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install '.[environments]'")


def group_of(name: str, **options):
    base, own = (OmegaConf.load(CONFIGS / "env" / f"{file}.yaml") for file in ("gym", name))
    own.pop("defaults")
    return OmegaConf.to_container(OmegaConf.merge(base, own, {"size": 32, **options}))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[needs(name), *([pytest.mark.slow] if name == "memory_maze" else [])])
        for name in PACKAGES
    ],
)
def test_a_group_plays_and_repeats_itself(name):
    """From a seed, and from a snapshot in mid-episode."""
    env, again = make(group_of(name), 3), make(group_of(name), 3)
    check_spaces(name, env.observation_space, env.action_space)
    first, same = env.reset()[0], again.reset()[0]
    assert all(np.array_equal(first[key], same[key]) for key in first)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(6)]
    for action in actions[:3]:
        env.step(action)
    taken = env.snapshot()
    played = [env.step(action)[:2] for action in actions[3:]]
    env.restore(taken)
    replayed = [env.step(action)[:2] for action in actions[3:]]
    for (seen, reward), (expected, gained) in zip(replayed, played, strict=True):
        assert reward == gained
        assert all(np.array_equal(seen[key], expected[key]) for key in seen)


@pytest.mark.slow
@needs("memory_maze")
def test_memory_maze__a_seed_is_a_maze():
    env = libraries.MemoryMaze()
    one, same, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert env.step(1)[0].shape == env.observation_space.shape == (64, 64, 3)


@needs("atari")
def test_atari__counts_frames_and_repeats_as_published():
    env = make(group_of("atari"), 0)
    env.reset()
    assert env.step(0)[-1]["frames"] == 4
    inner = libraries.atari("pong", sticky=0.0, noops=30)
    assert inner.unwrapped.spec.kwargs["repeat_action_probability"] == 0.0
    assert inner.noop_max == 30
    assert libraries.atari("pong").unwrapped.spec.kwargs["repeat_action_probability"] == 0.25
    assert isinstance(libraries.atari("ms_pacman", all_actions=True).action_space, spaces.Discrete)
    assert libraries.atari("ms_pacman", all_actions=True).action_space.n == 18


@pytest.mark.parametrize(
    ("group", "made", "option", "said"),
    [
        ("atari", lambda: libraries.atari("pongg"), "kwargs.game", "Did you mean 'pong'"),
        ("popgym", lambda: libraries.popgym("RepeatPrevius"), "kwargs.task", "Did you mean 'RepeatPrevious"),
        ("minigrid", lambda: libraries.minigrid("MiniGrid-DorKey-5x5-v0"), "kwargs.level", "DoorKey-5x5-v0"),
        ("ogbench", lambda: libraries.ogbench("pointmaze-medum-v0"), "kwargs.task", "pointmaze-medium-v0"),
        ("memory_maze", lambda: libraries.MemoryMaze("9x8"), "kwargs.maze", "published mazes"),
    ],
)
def test_what_a_library_does_not_have_is_refused(group, made, option, said):
    if importlib.util.find_spec(PACKAGES[group]) is None:
        pytest.skip(f"{PACKAGES[group]} is not installed: pip install '.[environments]'")
    with pytest.raises(OptionError) as refused:
        made()
    assert refused.value.option == option
    assert said in str(refused.value)


@pytest.mark.parametrize("made", [libraries.atari, libraries.popgym, libraries.minigrid, libraries.ogbench])
def test_a_library_that_is_missing_is_named_with_its_remedy(made, monkeypatch):
    def missing(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(libraries.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"No module named .*pip install 'worldmodels\[environments\]'"):
        made()
