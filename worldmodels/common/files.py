"""What is written for people and scripts to read: JSON, reports, curves."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

log = logging.getLogger(__name__)

FRAMES = "frames"
"""First column of metrics.csv, and TensorBoard's step."""
GIB = 2**30


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)


def write_report(folder: Path, name: str, content: Mapping[str, Any], text: str, figure: Figure) -> None:
    """A result as JSON, as a table and as a figure, ``name`` with three endings; the table is shown too."""
    write_json(folder / f"{name}.json", content)
    (folder / f"{name}.md").write_text(text + "\n")
    figure.savefig(folder / f"{name}.png", dpi=120)
    log.info("\n%s\n\nin %s: %s.json, .md and .png", text, folder, name)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, but for a last line that a kill has cut short; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
    return list(csv.DictReader(whole))
