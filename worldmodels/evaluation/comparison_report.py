"""Report of `scripts/compare.py`: a table and a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodels.common.figures import blank_figure
from worldmodels.evaluation.scores import LEAST, spread

SHOWN = (1, 5, 15)
"""Imagined steps in the table."""
SIMULATOR, BOUND = "simulator", "bound"
"""In the place of a row's model: the simulator, and whatever was best on each start."""
MARK = {"starts": "*", "seeds": "", None: ""}
"""Behind an interval, by what was drawn for it."""


def label(row: Mapping[str, Any]) -> str:
    """A row's name: its planner and model."""
    if row["model"] == BOUND:
        return "best reached on each start"
    if row["model"] == SIMULATOR:
        guide = f" of {row['name']}" if row.get("runs") else ""
        return f"{row['planner']}{guide}: search on the simulator"
    return f"{row['planner']} on {row.get('name') or Path(row['model']).name}" if row["model"] else str(row["planner"])


def table(result: Mapping[str, Any]) -> str:
    """Markdown: returns, then what the models can do."""
    rows = result["rows"]
    heads = ["planner on model", "mean return", "seeds of training", "± of episodes"]
    base = next((label(row) for row in rows if row.get("against")), None)
    extra = {
        f"minus {base}": lambda row: shown(row.get("difference"), "mean", "{:+.1f}".format) or "–",
        "of the best reached": lambda row: shown(row.get("of_bound"), "ratio", percent),
        "of its search on the simulator": lambda row: shown(row.get("of_simulator"), "ratio", percent),
        "solved": lambda row: percent(row["success_rate"]) if "success_rate" in row else "",
    }
    keys = ("difference", "of_bound", "of_simulator", "success_rate")
    columns = [column for column, key in zip(extra.items(), keys, strict=True) if any(key in row for row in rows)]
    lines = [
        f"{result['env']}: mean returns of {result['episodes']} episodes from the same start states. Trainings that "
        "differ in their seed alone are one row. Intervals are bootstrapped 95 % ones, over seeds or where a star says "
        f"so over starts (then they tell nothing of other trainings); there is none of fewer than {LEAST} numbers. "
        "± is the standard deviation of episodes within a training.",
        "",
        "| " + " | ".join([*heads, *(head for head, _ in columns)]) + " |",
        "|---" * (len(heads) + len(columns)) + "|",
    ]
    for row in rows:
        if row["returns"] is None:
            cells = ["–", "–", row["reason"], *[""] * len(columns)]
        else:
            cells = [f"{row['mean']:.1f}", spread(row), f"{row['std']:.1f}", *(cell(row) for _, cell in columns)]
        lines.append("| " + " | ".join([label(row), *cells]) + " |")
    if base is None and result.get("against"):
        lines += ["", f"No differences are told: {result['against']} has no returns."]
    return "\n".join(lines + notes(rows) + quality_lines(result["quality"]))


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:.0f} %"


def shown(found: Mapping[str, Any] | None, key: str, form: Callable[[float], str]) -> str:
    """Write a number, with its interval where it has one."""
    if found is None:
        return ""
    if found["interval"] is None:
        return form(found[key])
    low, high = map(form, found["interval"])
    return f"{form(found[key])} ({low} – {high}){MARK[found['over']]}"


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """Say what reached the best returns, and which rows were trained on other numbers of frames."""
    said = []
    for row in rows:
        if "by" in row:
            makers = ", ".join(f"{name} ({count})" for name, count in Counter(row["by"]).most_common())
            said.append(f"Best reached, by starts: {makers}.")
    frames = {label(row): sorted(set(row["frames"])) for row in rows if row.get("frames") and row["model"] != SIMULATOR}
    if len({count for counts in frames.values() for count in counts}) > 1:
        listed = ", ".join(f"{name} {' and '.join(f'{n:,}' for n in counts)}" for name, counts in frames.items())
        said.append(f"Not trained on the same number of frames: {listed}.")
    return [line for note in said for line in ("", note)]


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
    """Draw returns, and where there are any the differences from one row.

    On the right are errors against the imagined step, a curve a model and part.
    """
    rows = sorted((row for row in result["rows"] if row["returns"] is not None), key=lambda row: row["mean"])
    parts = sorted({key for scores in result["quality"].values() for key in scores["errors"]})
    has_differences = any("difference" in row for row in rows)
    figure = blank_figure(5 + 2.6 * (len(parts) + has_differences), max(2.6, 0.32 * len(rows) + 1))
    ratios = [1.8] + [1] * (has_differences + len(parts))
    panels = list(figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0])
    draw_returns(panels.pop(0), rows)
    if has_differences:
        draw_differences(panels.pop(0), rows)
    for part, panel in zip(parts, panels, strict=True):
        for path, scores in result["quality"].items():
            curve = scores["errors"].get(part, [])
            panel.plot(range(1, len(curve) + 1), curve, label=Path(path).name)
        panel.set(xlabel="decisions imagined", title="cont: wrong" if part == "cont" else f"{part}: error / variance")
        panel.set_ylim(bottom=0)
    if parts:
        panels[-1].legend(fontsize=7)
    return figure


def color_of(row: Mapping[str, Any]) -> str:
    """Rows that consult no model are grey, searches on the simulator green, the best of all black."""
    return {None: "tab:gray", SIMULATOR: "tab:green", BOUND: "black"}.get(row["model"], "tab:blue")


def draw_returns(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw one row each, the best on top: its mean, each seed's, and an interval over seeds where there is one.

    A thin line is the deviation of episodes within a training.
    """
    for place, row in enumerate(rows):
        color = color_of(row)
        axes.plot([row["mean"] - row["std"], row["mean"] + row["std"]], [place, place], color=color, linewidth=0.7)
        if row["interval"] is not None:
            axes.plot(row["interval"], [place, place], color=color, linewidth=4, alpha=0.4, solid_capstyle="butt")
        axes.plot(row["seed_means"], [place] * len(row["seed_means"]), "|", color=color)
        axes.plot(row["mean"], place, "o", color=color)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    axes.set(xlabel="mean return; |: seeds; thin: deviation of episodes")
    axes.grid(axis="x", alpha=0.3)


def draw_differences(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw what each row has more than the one they are told against, with intervals where there are any."""
    axes.axvline(0, color="tab:gray", linewidth=0.8)
    for place, row in enumerate(rows):
        if "difference" in row:
            found, color = row["difference"], color_of(row)
            if found["interval"] is not None:
                axes.plot(found["interval"], [place, place], color=color, linewidth=4, alpha=0.4)
            axes.plot(found["mean"], place, "o", color=color)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.set(xlabel=f"minus {next(label(row) for row in rows if row.get('against'))}")
    axes.grid(axis="x", alpha=0.3)
