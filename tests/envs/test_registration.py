"""This project's environments under Gymnasium's names, held to Gymnasium's own rules."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from places import ROOT

import worldmodels.envs  # noqa: F401 - registers
from worldmodels.envs.gym import GymEnv
from worldmodels.envs.registration import CLASSES, LIBRARIES
from worldmodels.errors import UserError

OPTIONS = {
    "DMC": [{"task": "walker_walk", "obs": "pixels", "size": 16}, {"task": "cartpole_swingup", "obs": "state"}],
    "Maze": [{"obs": "both", "size": 16}],
    "Recall": [{}],
    "LinearGaussian": [{"noise": 0.1}],
    "Chain": [{}],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_our_environments_pass_gymnasiums_own_checker(name, options):
    env = gymnasium.make(f"worldmodels/{name}-v0", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds that are infinite, which is advice
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_wrapped_environments_pass_it_too(id):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(GymEnv(id, obs="state"))


def test_every_name_has_a_case_and_its_own_time_limit():
    assert set(OPTIONS) == set(CLASSES)
    env = gymnasium.make("worldmodels/Chain-v0", limit=3)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_every_name_is_in_the_documentation():
    page = (ROOT / "docs" / "environments.md").read_text()
    told = page[page.index("The other way round") : page.index("### Several cameras")]
    assert [name for name in (*CLASSES, *LIBRARIES) if f"`{name}`" not in told] == []


def test_a_seed_of_reset_seeds_gymnasiums_generator_too():
    env = gymnasium.make("worldmodels/LinearGaussian-v0", noise=0.3)
    seen = []
    for seed in (1, 1, 2):
        env.reset(seed=seed)
        seen.append([*env.step(np.zeros(1, np.float32))[0]["state"], env.unwrapped.np_random.random()])
    assert seen[0] == seen[1]
    assert not np.isclose(seen[0], seen[2]).any()


def test_mistakes_with_registered_names_are_one_sentence():
    for options, said in [({"lenght": 3}, "lenght"), ({"render_mode": "human"}, "is no way in which Chain draws")]:
        with pytest.raises((UserError, TypeError), match=said):
            gymnasium.make("worldmodels/Chain-v0", **options)


@pytest.mark.process
@pytest.mark.parametrize("imported", ["import gymnasium, worldmodels", "import worldmodels, gymnasium"])
def test_names_are_known_once_the_package_is_imported(imported):
    code = f"{imported}; gymnasium.make('worldmodels/Chain-v0'); import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
