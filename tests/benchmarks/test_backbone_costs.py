"""The cost benchmark measures equals, and says what it left out; how long anything took is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from dynamics_cases import subjects

from worldmodels.benchmarks import backbones as costs
from worldmodels.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted({subject.name for subject in subjects()}))
def test_every_backbone_has_the_parameters_asked_for(name):
    found = list(costs.subjects(name, 400_000, []))
    assert [subject.posterior for subject in found] in ([None], ["filter", "obs"])
    for subject in found:
        count = sum(p.numel() for p in subject.build(64).parameters())
        assert count == pytest.approx(400_000, rel=0.03)


@pytest.mark.process
def test_a_suite_leaves_table_json_and_figure(tmp_path):
    to = tmp_path / "costs.json"
    costs.measure([], [8, 16], ["transformer"], 60_000, 2, 1, str(to), ages=(2, 5))
    result = json.loads(to.read_text())
    assert [b["name"] for b in result["backbones"]] == [f"transformer {posterior}" for posterior in ("filter", "obs")]
    for backbone in result["backbones"]:
        assert backbone["costs"].keys() == {"8", "16"}
        for cost in backbone["costs"].values():
            assert all(cost[f"{what}_ms"] > 0 and cost[f"{what}_calls"] == 1 for what in ("train", "imagine"))
            assert cost["copied_mb"] > 0
    text = to.with_suffix(".md").read_text()
    assert text.count("| transformer obs |") == 7
    assert to.with_suffix(".png").stat().st_size > 10_000


def test_exponents_are_slopes_on_logarithmic_axes():
    grown = {n: {"train_ms": 3.0 * n**1.5} for n in (64, 256, 512, 1024, 4096)}
    grown[64] = {"train_ms": 1e6}
    assert costs.exponent(grown, "train_ms") == pytest.approx(1.5)
    assert costs.exponent({256: {"train_ms": 1.0}}, "train_ms") is None


def test_too_much__says_why_a_measurement_is_left_out():
    """A reason is given for what would take too long or too much memory, or was left out at a shorter length."""
    known = {64: {"train_ms": 1e3, "train_mb": 1.0}, 128: {"train_ms": 1e5, "train_mb": 1.0}}
    assert costs.too_much(known, 256, "train", 1e4) == "would take about 800 s"
    assert costs.too_much({64: {"train_ms": 1.0, "train_mb": 1e9}}, 128, "train", 1e4).endswith("GB")
    linear = {64: {"train_ms": 60.0, "train_mb": 0.0}, 1024: {"train_ms": 960.0, "train_mb": 1.0}}
    assert costs.too_much(linear, 4096, "train", 1e4) is None
    assert costs.too_much({64: {"train_ms": 1.0, "train_mb": 1.0}}, 128, "train", 1e4) is None
    assert costs.too_much({64: {"train_skipped": "because"}}, 128, "train", 1e4) == "left out at a shorter length"


def test_long_calls_are_timed_less_often(monkeypatch):
    monkeypatch.setattr(costs, "PATIENCE", 0.05)
    assert len(costs.several(lambda: time.sleep(0.03), CPU, 1, 9)) == 2
    assert len(costs.several(lambda: time.sleep(0.06), CPU, 3, 9)) == 3
    assert len(costs.several(lambda: None, CPU, 3, 9)) == 9


PEAK = """
import torch
from worldmodels.benchmarks.peak import PeakMemory
with PeakMemory(torch.device("cpu")) as memory:
    for _ in range(3):
        torch.ones(20_000_000)  # 80 MB each time, freed at once
print(memory.megabytes)
"""


@pytest.mark.process
def test_peak_memory_is_what_was_in_use_at_once():
    """In a process of its own: one that has trained keeps what it frees, and takes more beside."""
    told = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    assert 75 < float(told) < 120


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["suite=backbone"],
            "suite=backbone is not one of training, backbones, planning, launches, loop, versus. Did you mean "
            "'backbones'?",
        ),
        (["suite=backbones", "only=sm"], "only=sm is not one of"),
        (["suite=backbones", "lengths=64,x"], "lengths=64,x must be whole numbers of at least 1 with commas between."),
        (["suite=backbones", "dynamics=ssm"], "dynamics=ssm has no effect with suite=backbones: only= chooses"),
        (["suite=backbones", "trainer.precision=bf16"], "trainer.precision=bf16 has no effect with suite=backbones"),
        (["lengths=64"], "suite=training has no option lengths=."),
    ],
)
def test_mistakes_are_one_sentence(said, words, sentence):
    assert said.refusal("benchmark", *words).startswith(sentence)


@pytest.mark.heavy
def test_parameters_that_no_width_gives_are_refused():
    with pytest.raises(UserError, match="no width gives rssm 100 parameters within 3 %"):
        list(costs.subjects("rssm", 100, []))
