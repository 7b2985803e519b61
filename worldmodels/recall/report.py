"""Tables and the figure of `experiment=memory`."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

from matplotlib.figure import Figure

from worldmodels.common.figures import blank_figure

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
    """Accuracy of one task in percent with its standard error: a row a backbone and posterior, a column a delay.

    ``parameters`` are those of the dynamics.
    """
    columns = sorted({(not r["cue"], r["delay"]) for r in results})
    heads = [column_name(control, delay) for control, delay in columns]
    lines = [f"**{task}**: {TASKS[task]}", "", "| delay | parameters | " + " | ".join(heads) + " |"]
    lines.append("|---" * (2 + len(heads)) + "|")
    for name in dict.fromkeys(map(row_name, results)):
        found = {(not r["cue"], r["delay"]): r for r in results if row_name(r) == name}
        shown = [percent(found[column], task) if column in found else "" for column in columns]
        lines.append(f"| {name} | {next(iter(found.values()))['parameters']:,} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def percent(result: dict[str, Any], task: str) -> str:
    """Format ``97 ± 1``, with a star where time ran out.

    The error of an episode's share is at most that of a yes or no.
    """
    share, star = result["scores"][task], "*" if was_cut(result) else ""
    return f"{100 * share:.0f} ± {100 * math.sqrt(share * (1 - share) / result['episodes']):.0f}{star}"


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
    """Accuracy against delay, a panel a task: full ``obs``, dashed and hollow ``filter``, crosses the controls.

    Rows are set beside one another, because many lie at 1.
    """
    figure = blank_figure(11, 3.4)
    panels = figure.subplots(1, 3, sharey=True)
    names, rows = (list(dict.fromkeys(map(what, results))) for what in (itemgetter("dynamics"), row_name))
    for panel, task in zip(panels, ("imagined", "inferred", "room"), strict=True):
        panel.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
        for place, row in enumerate(rows):
            beside = ASIDE ** (place - (len(rows) - 1) / 2)
            mine = [r for r in results if row_name(r) == row]
            style = {"color": f"C{names.index(mine[0]['dynamics'])}", "label": row}
            line, face = ("--", "none") if mine[0]["posterior"] == "filter" else ("-", None)
            kept = sorted((r["delay"] * beside, r["scores"][task]) for r in mine if r["cue"])
            if kept:
                panel.plot(*zip(*kept, strict=True), line, marker="o", markersize=4, markerfacecolor=face, **style)
            for r in mine:
                if not r["cue"]:
                    panel.plot(r["delay"] * beside, r["scores"][task], "x", color=style["color"], markersize=5)
        panel.set(xscale="log", xlabel="steps between cue and choice", title=task, ylim=(0.3, 1.03))
        delays = sorted({r["delay"] for r in results})
        panel.set_xticks(delays, [str(delay) for delay in delays])
        panel.minorticks_off()
    panels[0].set_ylabel("accuracy (x: without a cue)")
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    panels[-1].legend(
        handles.values(), handles.keys(), fontsize=7, handlelength=4, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return figure
