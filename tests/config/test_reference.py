"""Help and the reference page are read from the signatures that check options."""

from __future__ import annotations

import sys

import pytest
from places import ROOT
from toy_runs import script

from worldmodels.commands import console
from worldmodels.commands.train import options
from worldmodels.config import load_config
from worldmodels.config.compose import search_word
from worldmodels.config.reference import document, lines


def shown(*words: str) -> str:
    """What ``scripts/train.py <words> --help`` lists."""
    return options(list(words))


@pytest.mark.heavy
def test_the_reference_page_is_up_to_date():
    written = (ROOT / "docs" / "options.md").read_text()
    assert written == document(), "run `python -m worldmodels.config.reference`"


def test_help_is_about_the_words_given():
    text = shown("dynamics=transformer")
    assert "dynamics.core.window=32" in text
    assert "dynamics.core.window" not in shown()


def test_help_lists_files_of_ones_own(own):
    assert "mine" not in shown()
    groups = shown(search_word(own), "planner=mine").partition("options (key=value)")[0]
    assert "mine, mppi" in groups


def test_help_is_about_the_run_that_words_name(run_folder):
    for key in ("world_model", "resume"):
        text = shown(f"{key}={run_folder}")
        assert "env.lengths=" in text
        assert "dynamics.core.deter=32" in text
    assert "planner.lam=0.95" in shown(f"world_model={run_folder}", "planner=actor_critic")


def test_help_takes_the_words_of_train():
    """Also those that are no keys, and flags."""
    assert "data.dataset=data/maze" in shown("data=data/maze")
    assert "seed=3" in options(["-m", "seed=3"])


def test_a_line_describes_an_option():
    """Its value, its range and its text."""
    found = {line.key: line for line in lines(load_config(["env=maze", "env.max_leg_cells=2"]))}
    line = found["env.max_leg_cells"]
    assert (line.value, line.allowed) == ("2", "a whole number of at least 0")
    assert line.help.startswith("most cells between")
    assert found["env.num_envs"].help
    assert "words" not in found


def section(page: str, title: str) -> list[str]:
    """The rows under a heading of the reference page."""
    inner = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [row for row in inner.splitlines() if row.startswith("| `")]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "options.md").read_text()


@pytest.mark.parametrize(
    ("title", "row"),
    [
        ("`planner=diffusion`", "| `planner.plan_horizon` | `16` |"),
        ("`planner=diffusion`", "| `planner.acting.candidates` | `48` |"),
        ("`planner=diffusion`", "| `planner.learner.trajectories.net` | `${denoiser}` |"),
        ("`planner=cfgrl`", "| `planner.acting.candidates` | `1` |"),
        ("`planner=tdmpc`", "| `planner.search.num_samples` | `512` |"),
        ("`planner=cem_actor_critic`", "| `planner.search.num_samples` | `256` |"),
        ("`planner=tdmpc`", "| `planner.learner.gamma` | `0.99` |"),
        ("`planner=cem`", "| `planner.num_samples` | `256` |"),
        ("`denoiser=transformer`", "| `denoiser.heads` | `4` |"),
        ("`latent=categorical`", "| `latent.unimix` | `0.01` |"),
        ("`latent=simnorm`", "| `latent.classes` | `8` |"),
        ("`heads=transition`", "| `heads.reward.symlog_limit` | `10.0` |"),
        ("`objective=probe`", "| `objective.probe.loss_scales.pixels` | `1.0` |"),
        ("`optimizer=laprop`", "| `optimizer.build.betas` | `[0.9, 0.999]` |"),
        ("As it stands", "| `dynamics.latent` | `${latent}` |"),
    ],
)
def test_a_file_has_its_options_under_its_own_name(page, title, row):
    assert any(line.startswith(row) for line in section(page, title)), section(page, title)


def test_what_a_file_has_as_the_one_before_is_not_said_again(page):
    assert not any("acting.sampler" in row for row in section(page, "`planner=cfgrl`"))
    assert "decoder.units" not in page.replace("`decoder.units`", ""), "copies are listed where they come from"


def test_keys_without_a_constructor_are_explained():
    found = {line.key: line for line in lines(load_config(["env=maze", "planner=tdmpc", "dynamics=implicit"]))}
    for key, allowed in {
        "dynamics.loss_scales.consistency": "a number",
        "dynamics.parts.encode.lr": "a number or a list [a number] or null",
        "planner.learner.loss_scales.q": "a number",
        "planner.learner.parts.actor.eps": "a number or a list [a number] or null",
        "env.baseline_overrides.obs": "one of pixels, state, both",
        "optimizer.build.eps": "a number",
        "optimizer.build.fused": "true or false or null",
    }.items():
        assert found[key].help, key
        assert found[key].allowed == allowed
    assert "optimizer.build.lr" not in found


@pytest.mark.parametrize("name", ["benchmark", "collect", "compare", "evaluate", "imagine", "sweep", "train"])
def test_every_script_answers_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        console.run(script(name))
    assert caught.value.code == 0
    assert f"scripts/{name}.py" in capsys.readouterr().out
