"""The examples compose the library's parts without configuration or trainer, and what they train gets there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from places import ROOT


@pytest.mark.learns
@pytest.mark.process
@pytest.mark.parametrize("name", ["minimal_dreamer", "minimal_tdmpc"])
def test_an_example_learns_its_toy(name):
    """Each stays one sitting: at most 150 lines. Untrained it never reaches the reward in ten steps."""
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 150
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    before, after = re.search(r"untrained ([\d.]+), trained ([\d.]+)", run.stdout).groups()
    assert float(before) < 0.5
    assert float(after) == 1.0
