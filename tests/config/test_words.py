"""Stored configurations are composed anew from their words with others on top."""

from __future__ import annotations

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from worldmodels.config import load_config
from worldmodels.config.words import dataset_word, merge, path_word, quoted, readable, unquoted
from worldmodels.errors import UserError
from worldmodels.runs.edit import override, replayed

WORDS = ["env=counter", "planner=cem", "planner.num_samples=9", "size.units=8", "+loss_scales.rep=2.0"]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([], WORDS),
        (["planner=cem"], WORDS),
        (["planner.num_samples=5"], [*WORDS[:2], *WORDS[3:], "planner.num_samples=5"]),
        (["planner.gamma=0.5", "planner=mppi"], [WORDS[0], *WORDS[3:], "planner=mppi", "planner.gamma=0.5"]),
        (["loss_scales.rep=3.0"], [*WORDS[:4], "+loss_scales.rep=3.0"]),
    ],
)
def test_new_words_take_the_place_of_old_ones(new, expected):
    assert merge(WORDS, new, {"env": "counter", "planner": "cem"}) == expected


def test_a_configuration_is_its_words():
    cfg = load_config(WORDS)
    assert cfg.words == WORDS
    assert load_config(list(cfg.words)) == cfg
    assert override(cfg, []) == cfg


@pytest.mark.parametrize(
    "words",
    [
        ["env.kwargs.max_episode_steps=9", "env.kwargs.goal.at=[1,2]"],
        ["env.kwargs={max_episode_steps: 9, goal: {at: [1, 2]}}"],
        ["+env.kwargs.max_episode_steps=9", "++env.kwargs.goal={at: [1, 2]}"],
        ["env.kwargs={max_episode_steps: 9}", "env.kwargs.goal.at=[1,2]"],
    ],
)
def test_arguments_of_gymnasium_are_words_like_others(words):
    cfg = load_config(["env=gym", "env.id=CartPole-v1", *words])
    assert cfg.env.kwargs == {"max_episode_steps": 9, "goal": {"at": [1, 2]}}
    assert load_config(list(cfg.words)) == cfg
    changed = override(cfg, ["env.kwargs.max_episode_steps=8", "env.max_episode_steps=7"])
    assert (changed.env.kwargs.max_episode_steps, changed.env.max_episode_steps) == (8, 7)


def test_other_environments_take_no_arguments_of_gymnasium():
    with pytest.raises(UserError, match=r"kwargs=.*is not an option of DMC"):
        load_config(["env.kwargs.max_episode_steps=9"])
    with pytest.raises(UserError, match="max_episode_steps=0 must be a whole number of at least 1"):
        load_config(["env=gym", "env.max_episode_steps=0"])


def test_a_resumed_run_may_get_a_time_limit():
    """Nothing else that the replay depends on may change, as a run of before the option has none."""
    before = load_config(["env=gym"]).env
    old = {key: value for key, value in before.items() if key != "max_episode_steps"}
    after = load_config(["env=gym", "env.max_episode_steps=9"]).env
    assert replayed(before) == replayed(after) == replayed(old)
    assert replayed(before) != replayed(load_config(["env=gym", "env.kwargs.g=9"]).env)


def test_groups_within_groups_follow_by_themselves():
    cfg = load_config(["planner=diffusion", "size.units=24"])
    changed = override(cfg, ["denoiser=transformer", "denoiser.width=64"])
    assert changed.planner.learner.trajectories.net == changed.denoiser
    assert override(cfg, ["planner=diffuser"]).size.units == 24
    assert override(cfg, ["size=s"]).size.units == 256


def test_a_run_is_no_experiment_afterwards():
    with pytest.raises(UserError) as caught:
        override(load_config([]), ["experiment=dreamerv3"])
    assert caught.value.option == "experiment"


def test_any_path_can_be_a_word(tmp_path):
    path = f"{tmp_path}/it's, a {{strange}} [one]=\\"
    assert load_config([quoted("run_dir", path)]).run_dir == path


def test_stored_values_are_the_composed_ones(tmp_path):
    cfg = load_config(["frames=1e6", "env.num_envs=2.0"])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert OmegaConf.load(tmp_path / "config.yaml") == cfg
    assert (cfg.frames, cfg.env.num_envs) == (1_000_000, 2)
    assert isinstance(cfg.env.num_envs, int)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["planner=nope", "planner.beta=1"], "planner=nope is not one of .*"),
        (["planner.beta=1", "planner=cem,mppi"], "planner=cem,mppi is several values: scripts/train.py -m .*"),
        (["seed=1,2"], "seed=1,2 is several values: .*"),
        (["planner@prefill_planner=nope"], "planner@prefill_planner=nope is not one of .*"),
        (["planner=mine", "planner.typo=3"], r"there is no key 'planner\.typo'.*"),
        (["planner=null"], "planner=null is not one of .*"),
        (["planner=mien"], "planner=mien is not one of .* Did you mean 'mine'[?]"),
        (["planner=torn"], "while parsing .*"),
        (["planner=a=b", "planner.beta=1"], "planner=a=b cannot be read as key=value: .*"),
    ],
)
def test_the_wrong_word_is_the_one_named(own, words, sentence):
    """Files of one's own are no mistake."""
    (own / "planner" / "torn.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=f"^{sentence}$"):
        load_config(words, config_dir=own)


@pytest.mark.process
def test_a_word_that_there_is_not_is_refused_without_torch():
    """In a second: importing torch takes four. Options that there are, are held against classes, which do need it."""
    code = """
import sys
from worldmodels.config import load_config
from worldmodels.errors import UserError

try:
    load_config(["nonsense=1"])
except UserError as error:
    sys.exit(str(error) if "torch" not in sys.modules else "torch is loaded")
"""
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (1, "there is no key 'nonsense'. Did you mean 'seed'?\n")


PATHS = [
    "José/x",
    "lr=0.001",
    "try (2)",
    "it's",
    "2026",
    "true",
    "a\\b",
    "a\\",
    "\\\\'",
    "a,b",
    "[x]",
    "%d é 世",
    " a\n",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is(path):
    """By Hydra, and by its own main, which hands its words on in quotes."""
    assert load_config([path_word("run_dir", path)]).run_dir == path
    assert load_config([dataset_word(path)]).data.dataset == ([path[1:-1]] if path == "[x]" else path)
    assert unquoted(readable(f"run_dir={path}")) == f"run_dir={path}"
    assert unquoted(quoted("run_dir", path)) == f"run_dir={path}"


def test_a_path_may_name_another_key():
    assert load_config([path_word("run_dir", "é/${seed}"), "seed=3"]).run_dir == "é/3"
    assert unquoted("run_dir=runs/$\\{seed\\}") == "run_dir=runs/${seed}", "as a sweep hands it on"


def test_no_path_is_null():
    assert load_config([path_word("run_dir", "null")]).run_dir is None
    assert load_config([dataset_word("null")]).data.dataset is None


def test_a_dataset_that_exists_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "é,a").mkdir()
    assert load_config([dataset_word("é,a")]).data.dataset == str(tmp_path / "é,a")
    found = load_config([dataset_word("['é,a',minari:D4RL/x-v0,it's]")]).data.dataset
    assert found == [str(tmp_path / "é,a"), "minari:D4RL/x-v0", "it's"]
