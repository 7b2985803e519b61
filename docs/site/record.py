"""Append a finished run to a table: `python docs/site/record.py quickstart/seeds runs/<folder> [field=value …]`.

The record holds what the run's folder says, rounded, and the machine and versions that this script runs with: run it
where the training ran, in its environment. What the file's `about` says already is left out. A field that is given
replaces what was read: `beside=nothing`, `"machine=two cores of …"`. Then `python docs/site/tables.py` writes pages.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
AHEAD = (1, 3, 5, 10, 15, 20, 30)
"""Decisions ahead at which image errors are recorded."""
ERRORS = {
    "image_error": "model_error",
    "image_error_shuffled": "shuffled_action_error",
    "image_error_one_future": "single_future_error",
}
"""Fields of a record, and what `imagine.json` calls them."""


def machine() -> str:
    """Name the processor and count the cores that this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return f"{len(os.sched_getaffinity(0))} cores of {model[1] if model else platform.machine()}"


def image_errors(imagined: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Image errors relative to the better of the last frame and its blend with the mean frame, by decisions ahead."""
    steps = {step: index for index, step in enumerate(imagined["steps"]) if step in AHEAD}
    better = [min(pair) for pair in zip(imagined["last_frame_error"], imagined["blend_error"], strict=True)]
    return {
        field: {str(step): round(imagined[name][index] / better[index], 3) for step, index in steps.items()}
        for field, name in ERRORS.items()
    }


def record(run: Path) -> dict[str, Any]:
    """Read the record of a finished run."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    scores, timing = (json.loads((run / name).read_text()) for name in ("evaluation.json", "timing.json"))
    words = " ".join(config["words"])
    imagined = run / "imagine.json"
    return {
        "seed": scores["seed"],
        "command": f'make train ARGS="{words}"' if words else "make train",
        "commit": (run / "version.txt").read_text().splitlines()[-1].removeprefix("commit "),
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "task": config["env"].get("task"),
        "backbone": config["choices"]["dynamics"],
        "posterior": config["dynamics"].get("posterior"),
        "planner": scores["planner"],
        "frames": scores["frames"],
        "return": round(scores["return_mean"], 2),
        "std": round(scores["return_std"], 2),
        "exploring": round(scores["return_stochastic_mean"], 2),
        "episodes": [round(score, 1) for score in scores["returns"]],
        "episodes_exploring": [round(score, 1) for score in scores["returns_stochastic"]],
        "baselines": {name: round(score, 2) for name, score in scores["baselines"].items()},
        **(image_errors(json.loads(imagined.read_text())) if imagined.exists() else {}),
        "seconds": {name: round(seconds, 1) for name, seconds in timing.items()},
    }


def text_of(held: dict[str, Any]) -> str:
    """Write a file of results, a line for each record."""
    about = ",\n".join(f"    {_line(key)}: {_line(value)}" for key, value in held["about"].items())
    tables = ",\n".join(
        f"    {_line(name)}: [\n" + ",\n".join(f"      {_line(row)}" for row in rows) + "\n    ]"
        for name, rows in held["tables"].items()
    )
    return f'{{\n  "about": {{\n{about}\n  }},\n  "tables": {{\n{tables}\n  }}\n}}\n'


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _given(word: str) -> tuple[str, Any]:
    field, _, value = word.partition("=")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def main(words: list[str], folder: Path = ROOT / "results") -> None:
    """Append what a run's folder and ``field=value`` say to a table."""
    table, run, *given = words
    topic, _, name = table.partition("/")
    path = folder / f"{topic}.json"
    held = json.loads(path.read_text())
    found = record(Path(run)) | dict(map(_given, given))
    missing = object()
    held["tables"][name].append(
        {field: value for field, value in found.items() if held["about"].get(field, missing) != value}
    )
    path.write_text(text_of(held))


if __name__ == "__main__":
    main(sys.argv[1:])
