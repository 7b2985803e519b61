"""Tables and figures of `scripts/gpu_check.py`, from what its checks found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodels.benchmarks import backbones_report, launches
from worldmodels.benchmarks import loop as loop_suite
from worldmodels.benchmarks.check_runner import CUT, DONE, FAILED
from worldmodels.common.figures import blank_figure

Found = Mapping[str, Mapping[str, Any]]
"""What each check of a group found, by the rest of its name."""
PRECISIONS = ("fp32", "bf16")


def report(info: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], not_run: Sequence[str]) -> str:
    """Markdown: what became of each check, then a table for each group."""
    counts = {status: sum(check["status"] == status for check in checks) for status in (DONE, FAILED, CUT)}
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    machine = ", ".join(f"{key} {value}" for key, value in info["machine"].items())
    head = f"{machine}; {info['version']}\n\n{told}, {len(not_run)} not run"
    lines = [(one["name"], one["status"], one["seconds"], one["error"] or "") for one in checks]
    lines += [(name, "not run", None, "") for name in not_run]
    groups = grouped(checks)
    parts = [f"## {group}\n\n{SHOWN[group](groups[group])}" for group in SHOWN if groups.get(group)]
    return "\n\n".join(["# GPU check", head, rows(("check", "", "s", ""), lines), *parts])


def grouped(checks: Sequence[Mapping[str, Any]]) -> dict[str, Found]:
    """Return what checks found, by group and by the rest of their names; those that found nothing are left out."""
    groups: dict[str, dict[str, Any]] = {}
    for check in checks:
        group, _, name = check["name"].partition(": ")
        if check["found"]:
            groups.setdefault(group, {})[name] = check["found"]
    return groups


def rows(title: Sequence[str], content: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; numbers have four digits, and what is missing is a dash."""
    lines = ["| " + " | ".join(title) + " |", "|---" * len(title) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in content])


def cell(value: Any) -> str:
    """A number, a text or nothing."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def agreement(found: Found) -> str:
    """Largest relative differences."""
    devices = [(name, one["device"], one["bf16"]) for name, one in found.get("devices", {}).items()]
    compiled = [
        (name, backend, one["difference"], one["seconds"], one["graphs"], one["graph_breaks"])
        for check, content in found.items()
        if check != "devices"
        for name, backends in content.items()
        for backend, one in backends.items()
    ]
    parts = [rows(("device against CPU", "fp32", "losses in bf16"), devices)] if devices else []
    title = ("compiled against eager", "by", "difference", "compile, s", "graphs", "breaks")
    return "\n\n".join([*parts, *([rows(title, compiled)] if compiled else [])])


def waits(found: Found) -> str:
    """What is waited for, and how often."""
    content = [
        (name, part, sum(places.values()), ", ".join(f"{place} x{n}" for place, n in places.items()))
        for name, parts in found.items()
        for part, places in parts.items()
    ]
    return rows(("", "part", "waits", "for"), content)


def updates(found: Found) -> str:
    """Milliseconds of an update in both precisions, of a plan and a frame, and what a GPU was asked for."""

    def of(one: Mapping[str, Any]) -> list[Any]:
        parts = [one.get(how, {}) for how in PRECISIONS]
        times = [part.get(what, {}).get("median") for what in ("update", "plan", "frame") for part in parts]
        return times + [part.get(what) for what in ("update_mb", "kernels", "busy_ms") for part in parts]

    content = [(name, *of(one)) for name, one in found.items()]
    parts = ("update, ms", "plan, ms", "frame, ms", "peak, MB", "kernels", "busy, ms")
    return rows(("", *(f"{part}, {how}" for part in parts for how in PRECISIONS)), content)


def planning(found: Found) -> str:
    """Milliseconds of a decision."""
    planners = next(iter(found.values()))
    envs = [key for key in next(iter(planners.values())) if key.isdigit()]
    content = [(name, row["parameters"], *(row[n]["median"] for n in envs)) for name, row in planners.items()]
    return rows(("", "parameters", *(f"{n} at once, ms" for n in envs)), content)


def launching(found: Found) -> str:
    """Operators and waits, as suite=launches prints them."""
    return f"```\n{launches.table(list(next(iter(found.values())).values()))}\n```"


def acting(found: Found) -> str:
    """Milliseconds, as suite=training prints them."""
    times = next(iter(found.values()))
    return rows(
        ("", "median, ms", "p10", "p90"), [(name, t["median"], t["p10"], t["p90"]) for name, t in times.items()]
    )


def rendering(found: Found) -> str:
    """Frames a second by number of workers."""
    steps = next(iter(found.values()))
    content = [(workers, step["median"], step["frames_per_second"]) for workers, step in steps.items()]
    return rows(("workers", "a step of all, ms", "frames a second"), content)


def lengths(found: Found) -> str:
    """Tables of suite=backbones."""
    return backbones_report.table(measured(found))


def measured(found: Found) -> list[dict[str, Any]]:
    """Results of suite=backbones, of all checks together; a JSON's lengths are texts."""
    results = [result for one in found.values() for result in one.values()]
    return [{**result, "costs": {int(n): cost for n, cost in result["costs"].items()}} for result in results]


def loop(found: Found) -> str:
    """A second of training."""
    one = next(iter(found.values()))
    return f"```\n{loop_suite.table(one)}\n```\n\n{loop_suite.told(one)}"


def learning(found: Found) -> str:
    """Losses and returns, first and last."""
    one = next(iter(found.values()))
    keys = [key for key in ("updates", "frames", "first_loss", "last_loss") if key in one]
    returns = one.get("returns") or [None]
    content = [*((key.replace("_", " "), one[key]) for key in keys), ("first return", returns[0])]
    return rows(("", ""), [*content, ("last return", returns[-1])])


SHOWN: dict[str, Callable[[Found], str]] = {
    "agreement": agreement,
    "waits": waits,
    "updates": updates,
    "planning": planning,
    "launches": launching,
    "acting": acting,
    "rendering": rendering,
    "loop": loop,
    "learning": learning,
    "lengths": lengths,
}
"""How the finds of each group are shown, in this order."""


def figures(checks: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Return figures by name: updates, rendering and a second of training, and what lengths cost."""
    groups, found = grouped(checks), {}
    panels = [(draw, groups[group]) for group, draw in DRAWN.items() if groups.get(group)]
    if panels:
        found["gpu_check"] = figure = blank_figure(5 * len(panels), 4.5)
        for (draw, content), panel in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            draw(panel, content)
    results = measured(groups.get("lengths", {}))
    if any(result["costs"] for result in results):
        found["lengths"] = backbones_report.draw(results)
    return found


def draw_updates(panel: Axes, found: Found) -> None:
    """Bars of an update in both precisions."""
    for shift, how in zip((-0.2, 0.2), PRECISIONS, strict=True):
        times = [one.get(how, {}).get("update", {}).get("median", 0.0) for one in found.values()]
        panel.barh([place + shift for place in range(len(found))], times, 0.4, label=how)
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("an update, ms")
    panel.legend()


def draw_rendering(panel: Axes, found: Found) -> None:
    """Frames a second by number of workers."""
    steps = next(iter(found.values()))
    panel.bar(list(steps), [step["frames_per_second"] for step in steps.values()])
    panel.set_xlabel("workers")
    panel.set_ylabel("frames a second, 64x64")


def draw_loop(panel: Axes, found: Found) -> None:
    """Shares of a second of training."""
    shares = next(iter(found.values()))["shares"]
    panel.barh(list(shares), list(shares.values()))
    panel.invert_yaxis()
    panel.set_xlabel("share of a training's time")


DRAWN: dict[str, Callable[[Axes, Found], None]] = {
    "updates": draw_updates,
    "rendering": draw_rendering,
    "loop": draw_loop,
}
