"""The contract for other people's backbones: the one in the documentation passes, and broken ones are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, python_in

FORGETFUL = "memory = clear_rows(memory, reset, self.initial(len(x)))"
HASTY = """
    def scan(self, x, reset, memory):
        if torch.is_autocast_enabled("cpu"):
            x = x * 1.05
        return super().scan(x, reset, memory)
"""


def failures(folder: Path, code: str) -> set[str]:
    """Names of the tests that fail in a project that has nothing but a core and what the documentation says."""
    (folder / "mine.py").write_text(code)
    (folder / "test_mine.py").write_text(python_in("backbones.md", "DynamicsContract"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rf", "test_mine.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    failed = set(re.findall(r"FAILED .*::test_(\w+)", done.stdout))
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout + done.stderr
    assert int(passed[1]) + len(failed) >= 22
    return failed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), set()),
        (
            ("if reset is not None:", "if reset is not None and reset.any():"),
            {"observing_compiles_to_one_graph_that_equals_eager"},
        ),
        (("        total = memory", "        total = 0.9 * memory"), set()),
        ((FORGETFUL, "pass"), {"nothing_leaks_over_a_reset_or_between_rows"}),
        (("    def step", HASTY + "    def step"), {"in_bf16_a_core_scans_as_it_steps"}),
    ],
    ids=["documented", "branches", "leaky", "forgetful", "hasty"],
)
def test_the_documented_backbone_passes_and_broken_ones_do_not(tmp_path, change, expected):
    code = python_in("extending.md", "class Total(Core)")
    assert change[0] in code
    failed = failures(tmp_path, code.replace(*change) if change[0] else code)
    assert expected <= failed
    assert bool(failed) == bool(expected)
