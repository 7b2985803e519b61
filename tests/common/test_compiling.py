"""A compiled step is compiled once, for the sizes of its first call, and says how long that took."""

from __future__ import annotations

import pytest
import torch

from worldmodels.common import compiling
from worldmodels.common.compiling import CompiledStep, compiler_missing
from worldmodels.errors import UserError


@pytest.fixture
def step(monkeypatch):
    calls = []

    def compiled(function, **options):
        assert options == {"dynamic": False, "fullgraph": True, "mode": None}
        return lambda *args: calls.append("compiled") or function(*args)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(compiling, "compiled_graphs", lambda: min(len(calls), 1))
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


def test_what_is_compiled_again_is_told(caplog):
    """Sizes are the same, but not a number that the graph holds: as a share that a warm-up changes."""
    caplog.set_level("INFO", "worldmodels")
    share = [1.0]
    step = CompiledStep(lambda x: x * share[0], "a step")
    step.compiled = torch.compile(step.function, dynamic=False, fullgraph=True, backend="eager")
    for share[0] in (1.0, 1.0, 2.0, 2.0):
        assert step(torch.ones(2)).tolist() == [share[0]] * 2
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[1].startswith("compiled a step again in ")
    assert caplog.messages[1].endswith("s, the 2. time")


def test_what_is_not_one_graph_is_refused():
    def breaks(x):
        torch._dynamo.graph_break()
        return x

    step = CompiledStep(breaks, "the losses")
    with pytest.raises(UserError, match=r"^trainer\.compile: the losses cannot be one graph: .*; use off\.$"):
        step(torch.ones(2))
