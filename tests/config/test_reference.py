"""Help and the reference page are read from the signatures that check options."""

from __future__ import annotations

import sys

import pytest
from places import ROOT

from worldmodels import cli
from worldmodels.config import load_config
from worldmodels.config.reference import document, help_text, lines


@pytest.mark.heavy
def test_the_reference_page_is_up_to_date():
    written = (ROOT / "docs" / "options.md").read_text()
    assert written == document(), "run `python -m worldmodels.config.reference`"


def test_help_is_about_the_words_given():
    text = help_text(["dynamics=transformer"])
    assert "dynamics.core.window=64" in text
    assert "dynamics.core.window" not in help_text([])


def test_a_line_describes_an_option():
    """Its value, its range and its text."""
    found = {line.key: line for line in lines(load_config(["env=maze", "env.max_leg_cells=2"]))}
    line = found["env.max_leg_cells"]
    assert (line.value, line.allowed) == ("2", "a whole number of at least 0")
    assert line.help.startswith("most cells between")
    assert found["env.num_envs"].help
    assert "words" not in found


@pytest.mark.parametrize("name", ["benchmark", "collect", "compare", "evaluate", "imagine", "sweep", "train"])
def test_every_script_answers_help(name, monkeypatch, capsys):
    from toy_runs import script

    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        cli.run(script(name))
    assert caught.value.code == 0
    assert f"scripts/{name}.py" in capsys.readouterr().out
