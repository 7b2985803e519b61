"""Tables and the figure of `experiment=memory`."""

from __future__ import annotations

import math
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from worldmodels.common.figures import blank_figure
from worldmodels.evaluation.scores import LEAST, described, spread

TASKS = {
    "imagined": "reward imagined after the doors, from the room, the hallway and the action",
    "inferred": "reward inferred in the dark frame behind the door",
    "room": "quarters of the room imagined when it is seen again",
    "hall": "pixels of the hallway's stripes, imagined over its second half",
}
"""Scored quantities. Chance is a half in each."""


def row_name(result: dict[str, Any]) -> str:
    """Name a row by its backbone and posterior."""
    return " ".join(part for part in (result["dynamics"], result["posterior"]) if part)


def column_name(control: bool, delay: int) -> str:
    """Delay, and whether the room was hidden."""
    return f"{delay}, no cue" if control else str(delay)


def table(results: list[dict[str, Any]], task: str) -> str:
    """Accuracy of one task in percent: a row a backbone and posterior, a column a delay.

    Trainings that differ in their seed alone are one cell. ``parameters`` are those of the dynamics.
    """
    columns = sorted({(not r["cue"], r["delay"]) for r in results})
    heads = [column_name(control, delay) for control, delay in columns]
    lines = [f"**{task}**: {TASKS[task]}", "", "| delay | parameters | " + " | ".join(heads) + " |"]
    lines.append("|---" * (2 + len(heads)) + "|")
    for name in dict.fromkeys(map(row_name, results)):
        mine = [r for r in results if row_name(r) == name]
        found = [[r for r in mine if (not r["cue"], r["delay"]) == column] for column in columns]
        shown = [percent(seeds, task) if seeds else "" for seeds in found]
        lines.append(f"| {name} | {mine[0]['parameters']:,} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


ERRORS = (
    "± is the standard error over held-out episodes of one training: it tells nothing of other seeds. Of several seeds "
    f"there is the mean with each one's, or from {LEAST} on the bootstrapped 95 % interval over seeds."
)
"""What stands below the tables."""


def percent(results: list[dict[str, Any]], task: str) -> str:
    """Format ``97 ± 1`` of one training, ``97 (2 seeds: 96, 98)`` of several, with a star where time ran out.

    The error of an episode's share is at most that of a yes or no.
    """
    shares, star = [result["scores"][task] for result in results], "*" if any(map(was_cut, results)) else ""
    if len(results) == 1:
        error = math.sqrt(shares[0] * (1 - shares[0]) / results[0]["episodes"])
        return f"{100 * shares[0]:.0f} ± {100 * error:.0f}{star}"
    told = described(100 * np.asarray(shares)[:, None], range(len(shares)))
    return f"{told['mean']:.0f} ({spread(told, '{:.0f}')}){star}"


def was_cut(result: dict[str, Any]) -> bool:
    """Return whether a training made fewer updates than it was to make."""
    return result["updates"] < result["asked_updates"]


def footnote(results: list[dict[str, Any]]) -> str:
    """Which trainings were cut short, and where."""
    cut = [f"{row_name(r)}, {column_name(not r['cue'], r['delay'])}: {r['updates']}" for r in results if was_cut(r)]
    return f"\\* ended by `memory.minutes` before all updates were made: {'; '.join(cut)}." if cut else ""


ASIDE = 1.035
"""Between a row's delays and the next one's, as drawn."""


def draw(results: list[dict[str, Any]]) -> Figure:
    """Mean accuracy against delay, a panel a task: full ``obs``, dashed and hollow ``filter``, crosses the controls.

    Rows are set beside one another, because many lie at 1.
    """
    figure = blank_figure(11, 3.4)
    panels = figure.subplots(1, 3, sharey=True)
    delays = sorted({r["delay"] for r in results})
    names, rows = (list(dict.fromkeys(map(what, results))) for what in (itemgetter("dynamics"), row_name))
    for panel, task in zip(panels, ("imagined", "inferred", "room"), strict=True):
        panel.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
        for place, row in enumerate(rows):
            beside = ASIDE ** (place - (len(rows) - 1) / 2)
            mine = [r for r in results if row_name(r) == row]
            style = {"color": f"C{names.index(mine[0]['dynamics'])}", "label": row}
            line, face = ("--", "none") if mine[0]["posterior"] == "filter" else ("-", None)
            seeds = {delay: [r["scores"][task] for r in mine if r["cue"] and r["delay"] == delay] for delay in delays}
            kept = [(delay * beside, fmean(shares)) for delay, shares in seeds.items() if shares]
            if kept:
                panel.plot(*zip(*kept, strict=True), line, marker="o", markersize=4, markerfacecolor=face, **style)
            for r in mine:
                if not r["cue"]:
                    panel.plot(r["delay"] * beside, r["scores"][task], "x", color=style["color"], markersize=5)
        panel.set(xscale="log", xlabel="steps between cue and choice", title=task, ylim=(0.3, 1.03))
        panel.set_xticks(delays, [str(delay) for delay in delays])
        panel.minorticks_off()
    panels[0].set_ylabel("accuracy (x: without a cue)")
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    panels[-1].legend(
        handles.values(), handles.keys(), fontsize=7, handlelength=4, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return figure
