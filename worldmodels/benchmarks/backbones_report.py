"""Table and figure of `suite=backbones`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from worldmodels.common.figures import blank_figure

IMAGINED = 15
"""Imagined steps, DreamerV3's."""
FITTED = (256, 4096)
"""Exponents are fitted to lengths between these, where there are at least two."""


def exponent(costs: dict[int, dict[str, float]], what: str) -> float | None:
    """Slope of log cost against log length by least squares."""
    points = [(length, c[what]) for length, c in costs.items() if what in c and FITTED[0] <= length <= FITTED[1]]
    if len(points) < 2:
        return None
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: training by length with its exponent, then imagination, memory and acting."""
    lengths = sorted({length for r in results for length in r["costs"]})
    parts = []
    for what, title in (
        ("train_ms", "observe + losses + backward, ms"),
        ("train_mb", "its peak memory, MB"),
        ("imagine_ms", f"{IMAGINED} steps imagined from every posterior, ms"),
        ("imagine_mb", "its peak memory, MB"),
        ("copied_mb", "a copy of the acting memory for each posterior, MB"),
        ("share", "peak memory of imagining over that of such copies"),
    ):
        lines = [f"**{title}**", "", "| | parameters | " + " | ".join(map(str, lengths)) + " | exponent |"]
        lines.append("|---" * (3 + len(lengths)) + "|")
        for r in results:
            if not any(what in cost for cost in r["costs"].values()):
                continue
            shown = [f"{r['costs'][n][what]:.4g}" if what in r["costs"].get(n, {}) else "–" for n in lengths]
            slope = exponent(r["costs"], what)
            shown.append("–" if slope is None else f"{slope:.2f}")
            lines.append(f"| {r['name']} | {r.get('parameters', 0):,} | " + " | ".join(shown) + " |")
        parts.append("\n".join(lines))
    ages = list(next((r["acting_ms"] for r in results if "acting_ms" in r), {}))
    lines = ["**one acting step, ms**", "", "| | " + " | ".join(f"step {age}" for age in ages) + " | ratio |"]
    lines.append("|---" * 4 + "|")
    for r in results:
        if "acting_ms" in r:
            times = [r["acting_ms"][age] for age in ages]
            shown = " | ".join(f"{value:.3f}" for value in times)
            lines.append(f"| {r['name']} | {shown} | {times[-1] / times[0]:.2f} |")
    left_out = [
        f"- {r['name']}, T = {length}, {what.removesuffix('_skipped')}: {reason}"
        for r in results
        for length, cost in r["costs"].items()
        for what, reason in cost.items()
        if what.endswith("_skipped")
    ]
    said = ["**not measured**\n\n" + "\n".join(left_out)] if left_out else []
    return "\n\n".join([*parts, "\n".join(lines), *said])


def draw(results: list[dict[str, Any]]) -> Figure:
    """Draw log-log, a panel each for training, imagination and memory.

    Full lines are ``obs``, dashed ones ``filter``.
    """
    figure = blank_figure(12, 5)
    names = list(dict.fromkeys(r["name"].split()[0] for r in results))
    titles = {"train_ms": "observe + backward, ms", "imagine_ms": "imagine, ms", "train_mb": "observe + backward, MB"}
    panels, lines = dict(zip(titles, figure.subplots(1, 3), strict=True)), {}
    for r in results:
        style = {"linestyle": "--" if r["name"].endswith("filter") else "-", "marker": "."}
        style["color"] = f"C{names.index(r['name'].split()[0])}"
        label = named(r, titles)
        for what, panel in panels.items():
            points = [(length, c[what]) for length, c in sorted(r["costs"].items()) if c.get(what, 0) > 0]
            if points:
                lines[label] = panel.plot(*zip(*points, strict=True), **style)[0]
    for what, panel in panels.items():
        panel.set(xscale="log", yscale="log", xlabel="sequence length T", title=titles[what])
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower center",
        ncols=4,
        title="exponents of T: left, middle, right",
    )
    return figure


def named(result: dict[str, Any], what: Iterable[str]) -> str:
    """A backbone with its exponents."""
    slopes = (exponent(result["costs"], key) for key in what)
    return f"{result['name']}  " + " / ".join("–" if slope is None else f"{slope:.2f}" for slope in slopes)
