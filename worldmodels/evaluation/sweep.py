"""`scripts/sweep.py`: one setting of a trained run, or of its seeds, over several values, and what comes of each."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from tqdm import tqdm

from worldmodels.common.figures import blank_figure
from worldmodels.common.files import Report, require_writable
from worldmodels.errors import UserError
from worldmodels.evaluation.report import play_held_out
from worldmodels.evaluation.scores import described, spread
from worldmodels.runs.loading import open_run
from worldmodels.runs.seeds import by_configuration


def sweep(
    run: list[str],
    over: str,
    values: list[str],
    words: list[str],
    episodes: int = 10,
    seed: int = 1000,
    to: str = "sweep",
) -> dict[str, Any]:
    """Play the same episodes with ``over`` at each value. Write JSON, table and figure, return the JSON's content.

    Args:
        run: the run folder, or those of several seeds of one configuration, which are one row.
        over: a key of its configuration, such as ``planner.acting.steps``.
        values: what it is set to.
        words: further changes, the same for all.
        episodes: how many each value plays.
        seed: of the evaluation.
        to: the folder.
    """
    trainings, *others = by_configuration(run)
    if others:
        raise UserError(
            f"{trainings.paths[0]} and {others[0].paths[0]} differ in more than their seed: sweep one configuration at "
            "a time."
        )
    for value in values:  # a mistake in the last one belongs before the first is played
        for path in trainings.paths:
            open_run(path, [*words, f"{over}={value}"])
    require_writable(Path(to))
    rows = []
    for value in tqdm(values, desc=over, unit="value"):
        opened = (open_run(path, [*words, f"{over}={value}"]) for path in trainings.paths)
        played = [play_held_out(run, episodes, seed, run.cfg.evaluation.explore) for run in opened]
        solved = [batch.successes() for batch in played]
        rows.append(
            {
                "value": value,
                **described(np.asarray([batch.returns for batch in played]), trainings.seeds),
                "success_rate": None if None in solved else statistics.fmean(map(statistics.fmean, solved)),
            }
        )
    result = {
        "run": trainings.paths[0],
        "runs": trainings.paths,
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
        f"{result['run']}, {result['episodes']} episodes from the same start states each. ± is the standard deviation "
        "of episodes within a training, and tells nothing of other trainings:",
        "",
        f"| {result['over']} | mean return | seeds of training | ± of episodes |" + " solved |" * has_success,
        "|---|---|---|---|" + "---|" * has_success,
    ]
    for row in result["rows"]:
        solved = f" {100 * row['success_rate']:.0f} % |" if has_success else ""
        lines.append(f"| {row['value']} | {row['mean']:.1f} | {spread(row)} | {row['std']:.1f} |{solved}")
    if result["rank_correlation"] is not None:
        lines += [
            "",
            "Rank correlation of the value with the return: {means:.2f} of the means, {episodes:.2f} of single "
            "episodes.".format(**result["rank_correlation"]),
        ]
    return "\n".join(lines)


def draw(result: dict[str, Any]) -> Figure:
    """Draw mean return against the value: bars are one training's deviation of episodes, or an interval over seeds.

    Of few seeds there are no bars, but each one's mean. Where episodes are solved, their share stands beside it.
    """
    rows, values = result["rows"], numbers(result["rows"])
    places = values or list(range(len(rows)))
    has_success = any(row["success_rate"] is not None for row in rows)
    figure = blank_figure(9 if has_success else 4.8, 3)
    panels = np.ravel(figure.subplots(1, 1 + has_success))
    means = np.asarray([row["mean"] for row in rows])
    if len(rows[0]["seed_means"]) == 1:
        panels[0].errorbar(places, means, [row["std"] for row in rows], fmt="o-", capsize=3)
        panels[0].set(ylabel="return, ± deviation of episodes")
    else:
        panels[0].plot(places, means, "o-")
        panels[0].plot(places, [row["seed_means"] for row in rows], "_", color="tab:gray")
        panels[0].set(ylabel="return, – of each seed")
    if rows[0]["interval"] is not None:
        panels[0].vlines(places, *zip(*(row["interval"] for row in rows), strict=True), linewidth=4, alpha=0.4)
        panels[0].set(ylabel="return, 95 % interval over seeds")
    if has_success:
        panels[1].plot(places, [100 * row["success_rate"] for row in rows], "o-")
        panels[1].set(ylabel="solved, %", ylim=(0, 102))
    for axes in panels:
        axes.set(xlabel=result["over"])
        axes.grid(alpha=0.3)
        if values is None:
            axes.set_xticks(places, [row["value"] for row in rows])
    return figure
