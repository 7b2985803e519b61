"""`scripts/sweep.py`: one setting of a trained run over several values, and what comes of each."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from tqdm import tqdm

from worldmodels.common.figures import blank_figure
from worldmodels.common.files import Report
from worldmodels.evaluation.report import play_held_out
from worldmodels.runs.loading import open_run


def sweep(
    run: str, over: str, values: list[str], words: list[str], episodes: int = 10, seed: int = 1000, to: str = "sweep"
) -> dict[str, Any]:
    """Play the same episodes with ``over`` at each value. Write JSON, table and figure, return the JSON's content.

    Args:
        run: the run folder.
        over: a key of its configuration, such as ``planner.acting.steps``.
        words: further changes, the same for all.
    """
    for value in values:  # a mistake in the last one belongs before the first is played
        open_run(run, [*words, f"{over}={value}"])
    rows = []
    for value in tqdm(values, desc=over, unit="value"):
        played = play_held_out(open_run(run, [*words, f"{over}={value}"]), episodes, seed, explore=False)
        solved = played.successes()
        rows.append(
            {
                "value": value,
                "returns": played.returns,
                "mean": statistics.fmean(played.returns),
                "std": statistics.pstdev(played.returns),
                "success_rate": None if solved is None else statistics.fmean(solved),
            }
        )
    result = {
        "run": run,
        "over": over,
        "words": words,
        "episodes": episodes,
        "evaluation_seed": seed,
        "rows": rows,
        "rank_correlation": rank_correlation(rows),
    }
    report = Report(Path(to), "sweep", result, table(result), draw(result))
    report.write()
    report.show()
    return result


def numbers(rows: list[dict[str, Any]]) -> list[float] | None:
    """Return the values as numbers. None where some are words."""
    try:
        return [float(row["value"]) for row in rows]
    except ValueError:
        return None


def rank_correlation(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return Spearman's correlation of the values with mean returns and with those of single episodes.

    None where it is not defined.
    """
    values = numbers(rows)
    if values is None or len(set(values)) < 2 or len({row["mean"] for row in rows}) < 2:
        return None
    each = [(value, score) for value, row in zip(values, rows, strict=True) for score in row["returns"]]
    return {
        "means": float(spearmanr(values, [row["mean"] for row in rows]).statistic),
        "episodes": float(spearmanr(*zip(*each, strict=True)).statistic),
    }


def table(result: dict[str, Any]) -> str:
    """Format the results in Markdown."""
    has_success = any(row["success_rate"] is not None for row in result["rows"])
    lines = [
        f"{result['run']}, {result['episodes']} episodes from the same start states each:",
        "",
        f"| {result['over']} | return | deviation |" + " solved |" * has_success,
        "|---|---|---|" + "---|" * has_success,
    ]
    for row in result["rows"]:
        solved = f" {100 * row['success_rate']:.0f} % |" if has_success else ""
        lines.append(f"| {row['value']} | {row['mean']:.1f} | {row['std']:.1f} |{solved}")
    if result["rank_correlation"] is not None:
        lines += [
            "",
            "Rank correlation of the value with the return: {means:.2f} of the means, {episodes:.2f} of single "
            "episodes.".format(**result["rank_correlation"]),
        ]
    return "\n".join(lines)


def draw(result: dict[str, Any]) -> Figure:
    """Draw mean return and its standard error against the value.

    Where episodes are solved, their share stands beside it.
    """
    rows, values = result["rows"], numbers(result["rows"])
    places = values or list(range(len(rows)))
    has_success = any(row["success_rate"] is not None for row in rows)
    figure = blank_figure(9 if has_success else 4.8, 3)
    panels = np.ravel(figure.subplots(1, 1 + has_success))
    errors = [row["std"] / max(1, len(row["returns"]) - 1) ** 0.5 for row in rows]
    panels[0].errorbar(places, [row["mean"] for row in rows], errors, fmt="o-", capsize=3)
    panels[0].set(ylabel="return, standard error of the mean")
    if has_success:
        panels[1].plot(places, [100 * row["success_rate"] for row in rows], "o-")
        panels[1].set(ylabel="solved, %", ylim=(0, 102))
    for axes in panels:
        axes.set(xlabel=result["over"])
        axes.grid(alpha=0.3)
        if values is None:
            axes.set_xticks(places, [row["value"] for row in rows])
    return figure
