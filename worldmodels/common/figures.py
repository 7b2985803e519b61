"""Figures drawn without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 120
"""Dots per inch of a figure in a file."""


def blank_figure(width: float | int, height: float | int) -> Figure:
    """Return an empty figure of so many inches, whose pixels can be read. Pyplot would keep every figure."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """A figure as a file, of the kind that its ending says."""
    figure.savefig(path, dpi=DPI)
