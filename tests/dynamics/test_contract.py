"""The contract for other people's backbones: the one in the documentation passes, and broken ones are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from places import ROOT, python_in

FORGETFUL = "memory = clear_rows(memory, reset, self.initial(len(x)))"
HASTY = """
    def scan(self, x, reset, memory):
        if torch.is_autocast_enabled("cpu"):
            x = x * 1.05
        return super().scan(x, reset, memory)
"""
FORGET = """
import pytest
import torch


@pytest.fixture(autouse=True)
def forget():
    torch.compiler.reset()  # what was compiled for one backbone, as in a process of its own
"""
CHANGES = {
    "documented": (("", ""), set()),
    "branches": (
        ("if reset is not None:", "if reset is not None and reset.any():"),
        {"observing_compiles_to_one_graph_that_equals_eager"},
    ),
    "leaky": (("        total = memory", "        total = 0.9 * memory"), set()),
    "forgetful": ((FORGETFUL, "pass"), {"nothing_leaks_over_a_reset_or_between_rows"}),
    "hasty": (("    def step", HASTY + "    def step"), {"in_bf16_a_core_scans_as_it_steps"}),
}
"""What is done to the documented backbone, and what must fail then; nothing may where there is nothing."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> str:
    """What pytest says in a project that has nothing but cores and what the documentation says."""
    folder = tmp_path_factory.mktemp("project")
    code, contract = python_in("extending.md", "class Total(Core)"), python_in("backbones.md", "DynamicsContract")
    (folder / "conftest.py").write_text(FORGET)
    for name, (change, _) in CHANGES.items():
        assert change[0] in code
        (folder / f"{name}.py").write_text(code.replace(*change) if change[0] else code)
        (folder / f"test_{name}.py").write_text(contract.replace("from mine ", f"from {name} "))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfp"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert " passed" in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.contract
@pytest.mark.process
@pytest.mark.parametrize("name", CHANGES)
def test_the_documented_backbone_passes_and_broken_ones_do_not(outcome, name):
    found = {
        word: set(re.findall(rf"^{word} test_{name}\.py::\S*::test_(\w+)", outcome, re.M))
        for word in ("PASSED", "FAILED")
    }
    _, expected = CHANGES[name]
    assert found["PASSED"]
    assert len(found["PASSED"]) + len(found["FAILED"]) >= 22
    assert expected <= found["FAILED"]
    assert bool(found["FAILED"]) == bool(expected)
