"""A compiled step is compiled once, for the sizes of its first call, and says how long that took."""

from __future__ import annotations

import pytest
import torch

from worldmodels.common.compiling import CompiledStep, compiler_missing


@pytest.fixture
def step(monkeypatch):
    calls = []

    def compiled(function, **options):
        assert options == {"dynamic": False, "fullgraph": True}
        return lambda *args: calls.append("compiled") or function(*args)

    monkeypatch.setattr(torch, "compile", compiled)
    return CompiledStep(lambda x, memory: x + memory["h"], "a step"), calls


def rows(n):
    return torch.ones(n), {"h": torch.ones(n)}


def test_other_sizes_run_as_they_are_written(step, caplog):
    caplog.set_level("INFO", "worldmodels")
    add, calls = step
    for n in (2, 2, 3, 2):
        assert add(*rows(n)).tolist() == [2.0] * n
    assert calls == ["compiled"] * 3
    assert caplog.messages == ["compiled a step in 0 s"]


def test_gradients_and_autocast_are_sizes_too(step):
    add, calls = step
    with torch.no_grad():
        add(*rows(2))
    add(*rows(2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        add(*rows(2))
    assert calls == ["compiled"]


def test_a_cpu_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "g++" in compiler_missing(torch.device("cpu"))
    assert compiler_missing(torch.device("cuda")) is None
