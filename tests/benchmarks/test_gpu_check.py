"""`make gpu-check`: every end that a check can have, what another start does, and all of it in small."""

from __future__ import annotations

import json
import time
import warnings
from contextlib import contextmanager

import psutil
import pytest
import torch
from toy_checks import CHECKS

from worldmodels.benchmarks import agreement, check_runner, gpu_report
from worldmodels.benchmarks.check_runner import Check, Results, Setting, run_checks
from worldmodels.benchmarks.gpu_check import check
from worldmodels.benchmarks.gpu_checks import BACKBONES, agree_everywhere, all_checks, compile_one
from worldmodels.errors import UserError

CPU = torch.device("cpu")
SETTING = Setting(CPU, True)
MACHINE = {"device": "a", "threads": 2}


def ran(tmp_path, *names: str, seconds: float = 100.0, machine=MACHINE) -> dict:
    """Results of toy checks by name, and under ``not_run`` what there was no time for."""
    results = Results(tmp_path / "gpu_check.json", machine)
    left = run_checks([CHECKS[name] for name in names], SETTING, results, time.monotonic() + seconds)
    found = json.loads((tmp_path / "gpu_check.json").read_text())["checks"] if results.checks else []
    return {one["name"].removeprefix("toy: "): one for one in found} | {"not_run": left}


@pytest.mark.process
def test_each_end_of_a_check_is_told_and_the_others_go_on(tmp_path):
    found = ran(tmp_path, "quick", "endless", "chatters", "disagrees", "breaks", "dies")
    assert {name: one["status"] for name, one in found.items() if name != "not_run"} == {
        "quick": "done",
        "endless": "cut",
        "chatters": "cut",
        "disagrees": "failed",
        "breaks": "failed",
        "dies": "failed",
    }
    assert found["quick"]["found"]["small"] is True
    assert found["endless"]["error"] == "took more than its 3 s"
    assert not psutil.pid_exists(found["endless"]["found"]["child"])
    assert (found["disagrees"]["error"], found["disagrees"]["found"]) == ("one and two are 1 apart.", {"apart": 2.0})
    assert found["breaks"]["error"].startswith("RuntimeError: CUDA error: an illegal memory access")
    assert found["dies"]["error"] == "its process died with exit code 3"
    assert found["dies"]["found"] == {"last": "words"}
    assert found["not_run"] == []


@pytest.mark.process
def test_another_start_runs_only_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path))
    assert ran(tmp_path, "marks")["marks"]["status"] == "done"
    found = ran(tmp_path, "disagrees", "marks", "quick")
    assert list(found) == ["marks", "disagrees", "quick", "not_run"]
    assert (tmp_path / "marks").read_text() == "x"
    again = ran(tmp_path, "disagrees", "marks", "dies")
    assert list(again) == ["marks", "disagrees", "quick", "dies", "not_run"]
    assert again["quick"] == found["quick"]
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert written["machine"] == MACHINE


@pytest.mark.process
def test_what_was_never_tried_comes_first(tmp_path, monkeypatch):
    ran(tmp_path, "disagrees")
    order, run = [], check_runner.Worker.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            check_runner.Worker, "run", lambda self, one, limit: order.append(one.name) or run(self, one, limit)
        )
        ran(tmp_path, "disagrees", "quick")
    assert order == ["toy: quick", "toy: disagrees"]


@pytest.mark.process
@pytest.mark.parametrize("other", ["machine", "code", "torn", "list"])
def test_results_of_others_are_put_aside(tmp_path, monkeypatch, caplog, other):
    """And told, never mixed with new ones."""
    path, machine = tmp_path / "gpu_check.json", MACHINE
    Results(path, MACHINE).add("toy: quick", status="done", seconds=1.0, error=None, found={})
    if other == "machine":
        machine = MACHINE | {"device": "b"}
    elif other == "code":
        monkeypatch.setattr(check_runner, "code_digest", lambda: "other")
    else:
        path.write_text("{" if other == "torn" else "[1]")
    before = path.read_text()
    assert Results(path, machine).checks == {}
    assert (tmp_path / "gpu_check_before.json").read_text() == before
    assert not path.exists()
    assert caplog.text.count("is now gpu_check_before.json") == 1


def test_code_is_told_apart_whatever_git_knows(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("x: 1")
    monkeypatch.setattr(check_runner, "config_dir", lambda: tmp_path)
    before = check_runner.code_digest()
    assert check_runner.code_digest() == before
    (tmp_path / "a.yaml").write_text("x: 2")
    assert check_runner.code_digest() != before


@pytest.mark.process
def test_nothing_runs_beyond_the_minutes(tmp_path):
    """Whatever a check asks for; what is left is told."""
    begun = time.monotonic()
    assert check(minutes=0.01, to=str(tmp_path), checks=list(CHECKS.values())) == 0
    assert time.monotonic() - begun < 5
    assert json.loads((tmp_path / "gpu_check.json").read_text())["not_run"] == [one.name for one in CHECKS.values()]
    assert "| toy: dies | not run |" in (tmp_path / "gpu_check.md").read_text()


@pytest.mark.process
def test_a_check_is_cut_where_the_minutes_end(tmp_path, monkeypatch):
    """Not only where its own seconds end."""
    endless = Check("toy: endless", CHECKS["endless"].run, 1000.0)
    worker = check_runner.Worker(SETTING)
    try:
        assert worker.ready(90.0)
        monkeypatch.setattr(check_runner, "Worker", lambda setting: worker)
        begun, results = time.monotonic(), Results(tmp_path / "gpu_check.json", MACHINE)
        assert run_checks([endless, CHECKS["quick"]], SETTING, results, begun + 3) == ["toy: quick"]
    finally:
        worker.end()
    assert results.status("toy: endless") == "cut"
    assert 3 <= time.monotonic() - begun < 10


@pytest.mark.process
def test_a_failure_is_the_exit_status(tmp_path):
    assert check(to=str(tmp_path / "a"), checks=[CHECKS["quick"]]) == 0
    assert check(to=str(tmp_path / "b"), checks=[CHECKS["disagrees"]]) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["minutes=0"], "minutes=0 must be a number above 0."),
        (["minutes=nan"], "minutes=nan must be a number above 0."),
        (["minutes=inf"], "minutes=inf must be a number above 0."),
        (["only=wait"], "only=wait is not one of agreement, waits, updates,"),
        (["minute=3"], "gpu_check has no option minute=. Did you mean 'minutes'?"),
    ],
)
def test_mistakes_are_one_sentence(said, tmp_path, words, sentence):
    assert said.refusal("gpu_check", f"to={tmp_path}", *words).startswith(sentence)


# What is compared


def test_a_weight_that_learns_otherwise_is_found():
    words = ("dynamics=implicit", "planner=random")
    one = agreement.outcome(words, CPU)
    assert agreement.difference(one, agreement.outcome(words, CPU)) == (0.0, "loss consistency")
    names = [name for name in one if name.startswith("gradient of model.encoder")]
    assert names
    assert all(value.abs().max() > 0 for value in one.values())
    other = one | {names[0]: one[names[0]] * 1.01}
    apart, where = agreement.difference(one, other)
    assert (round(apart, 3), where) == (0.01, names[0])
    assert agreement.difference(one, {**one, "more": one[names[0]]}) == (float("inf"), "more")
    assert agreement.losses_of(other).keys() < other.keys()


@pytest.mark.parametrize("value", [0.003, float("nan"), float("inf")])
def test_what_is_no_number_does_not_agree(value):
    [told] = agreement.disagreements({"device": value, "bf16": 0.001}, {"device": 0.002, "bf16": 0.05}, "rssm")
    assert told.startswith("rssm: device is off by")
    one = {"loss a": torch.zeros(2), "loss b": torch.ones(2)}
    apart, where = agreement.difference(one, one | {"loss b": torch.full((2,), value)})
    assert where == "loss b"
    assert not apart <= 0.002


def test_every_backbone_that_disagrees_is_named(monkeypatch):
    """And all are told, with those that agree."""
    exact = {"loss a": torch.ones(2), "gradient of b": torch.ones(2)}

    def played(words, device, how="fp32", backend=None, repeats=1):
        off = 1.5 if (how == "bf16" and "ssm" in words[0]) or backend else 1.0
        return {name: off * value for name, value in exact.items()}

    monkeypatch.setattr(agreement, "outcome", played)
    monkeypatch.setattr(agreement, "graphs", lambda: {"graphs": 1, "graph_breaks": 0})
    told = {}
    with pytest.raises(UserError) as raised:
        agree_everywhere(SETTING, told.update)
    assert str(raised.value).count("off by") == sum("ssm" in name for name in told) == 2
    assert told.keys() == set(BACKBONES)
    with pytest.raises(UserError, match=r"planner=x: aot_eager is off by 0\.5, more than 0\.002"):
        compile_one(SETTING, told.update, ("planner=x",))
    assert told["planner=x"]["aot_eager"]["worst"] == "loss a"


def test_waits_are_told_by_place_on_a_gpu(monkeypatch):
    """As PyTorch tells them, which is played here: an error first, then a warning for each."""
    mode = []

    @contextmanager
    def played(word):
        mode.append(word)
        yield

    def call():
        if mode[-1] == "error":
            raise RuntimeError(f"{agreement.SYNC}; to silence")
        for _ in range(2):
            warnings.warn(agreement.SYNC, stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    monkeypatch.setattr(agreement, "sync_debug", played)
    [(place, times)] = agreement.waits(call, torch.device("cuda")).items()
    assert place.startswith("test_gpu_check.py:")
    assert (times, mode) == (2, ["error", "warn"])
    assert agreement.waits(lambda: None, torch.device("cuda")) == {}
    with pytest.raises(RuntimeError, match="out of luck"):
        agreement.waits(lambda: (_ for _ in ()).throw(RuntimeError("out of luck")), torch.device("cuda"))
    assert agreement.waits(lambda: torch.ones(2).sum().item(), CPU) == {"item": 1}


# What is told


def test_groups_of_checks_all_have_a_table():
    groups = {one.group for one in all_checks(False)}
    assert groups == {one.group for one in all_checks(True)} == gpu_report.SHOWN.keys()
    names = [one.name for one in all_checks(False)]
    assert len(names) == len(set(names))
    assert {one.name for one in all_checks(True)} < set(names)


def test_what_was_cut_short_is_shown_as_far_as_it_came():
    time_of = {"median": 2.0, "p10": 1.0, "p90": 3.0}
    costs = {"name": "rssm obs", "parameters": 5, "costs": {"8": {"train_ms": 3.0, "train_mb": 1.0}}}
    finds = {
        "agreement: devices": {"rssm": {"device": 1e-5, "bf16": 0.01}},
        "waits: default": {"update": {"module.py:3": 2}},
        "updates: default": {"fp32": {"update": time_of, "update_mb": 10.0}},
        "planning: x": {"mppi": {"planner": "mppi", "parameters": 3, "1": time_of, "16": time_of}},
        "learning: x": {"updates": 3, "frames": 5},
        "lengths: rssm obs": {"rssm obs": costs},
        "lengths: mamba obs": {"mamba obs": {"name": "mamba obs", "costs": {}}},
        "rendering: x": {"1": time_of | {"frames_per_second": 30.0}},
        "acting: x": {},
    }
    checks = [{"name": name, "status": "cut", "seconds": 1.0, "error": "e", "found": f} for name, f in finds.items()]
    text = gpu_report.report({"machine": MACHINE, "version": "v"}, checks, ["loop: default"])
    assert "0 done, 0 failed, 9 cut, 1 not run" in text
    assert "| default | update | 2 | module.py:3 x2 |" in text
    assert "| default | 2 | – |" in text
    assert "## acting" not in text
    assert gpu_report.figures(checks).keys() == {"gpu_check", "lengths"}
    assert gpu_report.figures([]) == {}


@pytest.mark.process
@pytest.mark.heavy
def test_all_of_it_runs_in_small(said, tmp_path):
    """And a second start has nothing to do."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, where it takes ten minutes: make gpu-check")
    to = tmp_path / "check"
    assert said.exit("gpu_check", "minutes=8", f"to={to}") == (0, "")
    result = json.loads((to / "gpu_check.json").read_text())
    assert [one["name"] for one in result["checks"]] == [one.name for one in all_checks(True)]
    assert {one["status"] for one in result["checks"]} == {"done"}
    assert all(one["found"] for one in result["checks"])
    assert {path.name for path in to.iterdir()} == {"gpu_check.json", "gpu_check.md", "gpu_check.png", "lengths.png"}
    assert sum(path.stat().st_size for path in to.iterdir()) < 16e6
    begun = time.monotonic()
    assert said.exit("gpu_check", f"to={to}") == (0, "")
    assert time.monotonic() - begun < 20
    assert json.loads((to / "gpu_check.json").read_text()) == result
