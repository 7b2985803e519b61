"""Files for people and scripts to read: JSON, reports, curves."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from worldmodels.common.figures import write_figure

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


@dataclass(frozen=True)
class Report:
    """A result as numbers, as Markdown and as a figure: three files in one folder."""

    folder: Path
    name: str
    """Name of the files, without their endings."""
    content: Mapping[str, Any]
    text: str
    figure: Figure | None
    """None where there is nothing to draw yet."""
    figure_name: str | None = None
    """Name of the figure, where it has one of its own."""

    def write(self) -> None:
        """Write ``.json``, ``.md`` and ``.png``."""
        write_json(self.folder / f"{self.name}.json", self.content)
        (self.folder / f"{self.name}.md").write_text(self.text + "\n")
        if self.figure is not None:
            write_figure(self.folder / f"{self.figure_name or self.name}.png", self.figure)

    def show(self) -> None:
        """Print the text, and where the files are."""
        log.info("\n%s\n\nin %s: %s.json, .md and .png", self.text, self.folder, self.name)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a metrics.csv, but for a last line that a kill has cut short. No file has no rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
    return list(csv.DictReader(whole))
