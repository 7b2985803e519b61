"""The examples compose the library's parts without configuration or trainer, and what they train gets there."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT
from toy_runs import WORDS

from worldmodels.training.run import train


@pytest.mark.learns
@pytest.mark.process
@pytest.mark.parametrize("name", ["minimal_dreamer", "minimal_tdmpc"])
def test_an_example_learns_its_toy(name):
    """Each stays one sitting: at most 150 lines. Untrained it reaches the reward in half at most."""
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 150
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    before, after = re.search(r"untrained ([\d.]+), trained ([\d.]+)", run.stdout).groups()
    assert float(before) <= 0.5
    assert float(after) == 1.0


@pytest.mark.process
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
@pytest.mark.parametrize("planner", ["mppi", "actor_critic"])
def test_the_first_lines_of_python_work_as_they_stand(page, planner, finished_run, tmp_path, unscored):
    """On a run of either of README's two commands."""
    folder = finished_run
    if planner != "mppi":
        words = [word for word in WORDS if not word.startswith("planner.")]
        folder = train([*words, f"planner={planner}", "planner.imag_horizon=3", f"run_dir={tmp_path / 'run'}"])
    block = re.search(r"```python\n(import torch\n.*?)```", (ROOT / page).read_text(), re.DOTALL)[1]
    assert len(block.strip().splitlines()) == 8  # two imports, an empty line, five lines
    found = {}
    exec(block.replace("runs/<folder>", str(folder)), found)
    assert found["frames"].shape[0] == 1
    assert found["frames"].shape[1] > 3


@pytest.mark.process
def test_the_notebook_shows_a_run(finished_run, monkeypatch):
    """Every cell runs, in less than a minute, and both clips and both figures are shown."""
    monkeypatch.setenv("RUN", str(finished_run))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert sorted(kind for kind in shown if kind.startswith("image/")) == ["image/gif"] * 2 + ["image/png"] * 2
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "after 120 frames" in printed
