"""Report of `scripts/compare.py`: a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodels.common.figures import blank_figure

SHOWN = (1, 5, 15)
"""Imagined steps in the table."""


def label(row: Mapping[str, Any]) -> str:
    """A row's model and planner."""
    model = row["model"] and ("oracle" if row["model"] == "oracle" else Path(row["model"]).name)
    return f"{row['planner']} on {model}" if model else str(row["planner"])


def table(result: Mapping[str, Any]) -> str:
    """Markdown: returns, then what the models can do."""
    ratios = {(r["model"], r["planner"]): r["ratio"] for r in result["planned_over_oracle"]}
    has_success = any("success_rate" in row for row in result["rows"])
    lines = [
        f"{result['env']}: returns of {result['episodes']} episodes from the same start states; the interval is the "
        "bootstrapped 95 % one of the interquartile mean over episodes.",
        "",
        "| planner on model | mean ± deviation | IQM | interval | of the oracle's |" + " solved |" * has_success,
        "|---|---|---|---|---|" + "---|" * has_success,
    ]
    for row in result["rows"]:
        if row["returns"] is None:
            lines.append(f"| {label(row)} | – | – | – | {row['reason']} |")
            continue
        low, high = row["interval"]
        ratio = ratios.get((row["model"], row["planner"]))
        lines.append(
            f"| {label(row)} | {row['mean']:.1f} ± {row['std']:.1f} | {row['iqm']:.1f} | {low:.1f} – {high:.1f} | "
            f"{'' if ratio is None else f'{100 * ratio:.0f} %'} |" + solved(row) * has_success
        )
    return "\n".join(lines + quality_lines(result["quality"]))


def solved(row: Mapping[str, Any]) -> str:
    """Format a cell with the success rate."""
    return f" {100 * row['success_rate']:.0f} % |" if "success_rate" in row else " |"


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """Errors at some imagined steps over the variance of what is predicted, and rank correlations."""
    lines = [
        "",
        "Errors of open-loop predictions, 1 being those of the mean, and rank correlation with true returns:",
        "",
    ]
    keys = sorted({key for scores in quality.values() for key in scores["errors"]})
    lines.append("| model | " + " | ".join(f"{key} {'/'.join(map(str, SHOWN))}" for key in keys) + " | ranks |")
    lines.append("|---" * (2 + len(keys)) + "|")
    for path, scores in quality.items():
        cells = []
        for key in keys:
            curve = scores["errors"].get(key, [])
            cells.append(" / ".join(f"{curve[step - 1]:.2f}" for step in SHOWN if step <= len(curve)))
        mean = scores.get("ranking", {}).get("mean")
        lines.append(f"| {Path(path).name} | {' | '.join(cells)} | {'–' if mean is None else f'{mean:.2f}'} |")
    return lines


def draw(result: Mapping[str, Any]) -> Figure:
    """Draw interquartile means and intervals on the left.

    On the right are errors against the imagined step, a curve a model and part.
    """
    rows = [row for row in result["rows"] if row["returns"] is not None]
    parts = sorted({key for scores in result["quality"].values() for key in scores["errors"]})
    figure = blank_figure(5 + 2.6 * len(parts), max(2.6, 0.32 * len(rows) + 1))
    axes = figure.subplots(1, 1 + len(parts), width_ratios=[1.8] + [1] * len(parts))
    draw_returns(axes[0] if parts else axes, rows)
    for part, panel in zip(parts, axes[1:] if parts else [], strict=True):
        for path, scores in result["quality"].items():
            curve = scores["errors"].get(part, [])
            panel.plot(range(1, len(curve) + 1), curve, label=Path(path).name)
        panel.set(xlabel="decisions imagined", title="cont: wrong" if part == "cont" else f"{part}: error / variance")
        panel.set_ylim(bottom=0)
    if parts:
        axes[-1].legend(fontsize=7)
    return figure


def draw_returns(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw one row each, the best on top. Policies that consult no model are grey, the oracle is green."""
    rows = sorted(rows, key=lambda row: row["iqm"])
    for place, row in enumerate(rows):
        color = "tab:gray" if row["model"] is None else "tab:green" if row["model"] == "oracle" else "tab:blue"
        low, high = row["interval"]
        axes.plot([low, high], [place, place], color=color, linewidth=4, alpha=0.4, solid_capstyle="butt")
        axes.plot(row["iqm"], place, "o", color=color)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    axes.set(xlabel="return (interquartile mean, 95 % interval)")
    axes.grid(axis="x", alpha=0.3)
