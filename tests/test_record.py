"""`docs/site/record.py` writes a finished run into a table of results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

spec = importlib.util.spec_from_file_location("site_record", ROOT / "docs" / "site" / "record.py")
record = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record)

SCORES = {
    "return_mean": 79.3201,
    "return_std": 3.7184,
    "return_stochastic_mean": 84.1282,
    "planner": "mppi",
    "frames": 8000,
    "seed": 3,
    "returns": [82.838, 75.8022],
    "returns_stochastic": [84.1, 84.1564],
    "baselines": {"random": 49.5119, "prefill": 172.4544},
}
IMAGINED = {
    "steps": [1, 2, 3],
    "model_error": [0.1, 0.2, 0.3],
    "last_frame_error": [0.5, 0.5, 0.5],
    "blend_error": [0.9, 0.4, 0.4],
    "shuffled_action_error": [0.5, 0.5, 0.5],
    "single_future_error": [0.2, 0.2, 0.2],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that ended, as small as it may be."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = {
        "env": {"task": "cartpole_swingup"},
        "choices": {"dynamics": "rssm"},
        "dynamics": {"posterior": "filter"},
        "words": ["seed=3", "frames=8000"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "evaluation.json").write_text(json.dumps(SCORES))
    (folder / "timing.json").write_text(json.dumps({"update": 11.5551, "total": 98.8504}))
    (folder / "version.txt").write_text("commit old\ncommit abc-dirty\n")
    return folder


def appended(run: Path, *given: str) -> dict[str, Any]:
    """The record that a run adds to a table that holds one."""
    results = run.parent / "results"
    results.mkdir()
    held = {"about": {"task": "cartpole_swingup", "planner": "cem"}, "tables": {"seeds": [{"seed": 0}]}}
    (results / "topic.json").write_text(json.dumps(held))
    record.main(["topic/seeds", str(run), *given], results)
    now = json.loads((results / "topic.json").read_text())
    assert (now["about"], now["tables"]["seeds"][0]) == (held["about"], {"seed": 0})
    [found] = now["tables"]["seeds"][1:]
    return found


def test_a_record_holds_what_the_folder_says(run):
    found = appended(run)
    assert found.pop("machine").split(" cores of ")[0].isdigit()
    assert found.pop("versions").keys() == {"python", "torch"}
    assert found == {
        "seed": 3,
        "command": 'make train ARGS="seed=3 frames=8000"',
        "commit": "abc-dirty",
        "backbone": "rssm",
        "posterior": "filter",
        "planner": "mppi",
        "frames": 8000,
        "return": 79.32,
        "std": 3.72,
        "exploring": 84.13,
        "episodes": [82.8, 75.8],
        "episodes_exploring": [84.1, 84.2],
        "baselines": {"random": 49.51, "prefill": 172.45},
        "seconds": {"update": 11.6, "total": 98.9},
    }


def test_image_errors_are_relative_to_the_better_baseline(run):
    (run / "imagine.json").write_text(json.dumps(IMAGINED))
    found = appended(run)
    assert found["image_error"] == {"1": 0.2, "3": 0.75}
    assert found["image_error_shuffled"] == {"1": 1.0, "3": 1.25}
    assert found["image_error_one_future"] == {"1": 0.4, "3": 0.5}


def test_given_fields_replace_what_was_read(run):
    found = appended(run, "beside=nothing", "machine=two cores", "updates=3144", "commit=null")
    assert (found["beside"], found["machine"], found["updates"], found["commit"]) == (
        "nothing",
        "two cores",
        3144,
        None,
    )


def test_files_of_results_are_as_this_writes_them():
    files = sorted((ROOT / "results").glob("*.json"))
    assert files
    assert [file.name for file in files if record.text_of(json.loads(file.read_text())) != file.read_text()] == []
