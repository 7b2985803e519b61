"""Files for people and scripts to read: JSON, reports, curves."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from worldmodels.common.figures import write_figure
from worldmodels.errors import UserError, shown

log = logging.getLogger(__name__)

FRAMES = "frames"
"""First column of metrics.csv, and TensorBoard's step."""
GIB = 2**30


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all, into a folder that is made where it is missing.

    Numbers that are not finite, which JSON has no words for, are null.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def finite(content: Any) -> Any:
    """Return plain containers with null in the place of NaN and infinity."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def require_writable(folder: Path, mend: str = "say another folder with to=") -> None:
    """Make a folder where it is missing, and refuse one that nothing can be written into, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be written ({error.strerror}): {mend}.") from error


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
