"""`scripts/compare.py`: planners x models from the same start states, with what bounds them from above and below."""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap, trim_mean
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from worldmodels.common.files import Report
from worldmodels.errors import UserError
from worldmodels.evaluation.baselines import baseline_policies
from worldmodels.evaluation.comparison_report import draw, label, table
from worldmodels.evaluation.model_metrics import common_episodes, mixed_actions, prediction_errors, ranking
from worldmodels.evaluation.report import play_held_out
from worldmodels.evaluation.rollout import EpisodeBatch, concat, evaluate_oracle, play_baseline
from worldmodels.runs.edit import world_of
from worldmodels.runs.folders import NotLearned, read_config
from worldmodels.runs.loading import Run, open_run

log = logging.getLogger(__name__)

RESAMPLED = 2000
"""Bootstrap samples behind an interval."""


@dataclass(frozen=True)
class Entry:
    """One planner on one model (None: no model), as words."""

    model: str | None
    planner: str


def compare(
    runs: list[str],
    planners: list[str] | None = None,
    episodes: int = 10,
    seed: int = 1000,
    oracle: bool = True,
    to: str = "compare",
) -> dict[str, Any]:
    """Play every entry of the grid, measure every model, write JSON, table and figure. Return the JSON's content."""
    first = read_config(Path(runs[0]))
    for path in runs[1:]:
        if world_of(read_config(Path(path)).env) != world_of(first.env):
            raise UserError(f"{path} and {runs[0]} were trained in different environments: compare them one by one.")
    planners = planners or list(dict.fromkeys(read_config(Path(path)).choices.planner for path in runs))
    grid = [Entry(path, planner) for path in runs for planner in planners]
    Path(to).mkdir(parents=True, exist_ok=True)
    for entry in grid:  # a mistake in the last one belongs before the first is played
        open_run_or_reason(entry)
    models = [open_run(path, []) for path in runs]
    with logging_redirect_tqdm():
        rows = [learned_row(entry, episodes, seed) for entry in tqdm(grid, desc="planners x models", unit="entry")]
        rows += bounds(models[0], planners, episodes, seed, oracle)
    recorded, quality = common_episodes(models, seed), {}
    held_out, actions = concat(recorded), mixed_actions(recorded)
    for path, run in zip(runs, tqdm(models, desc="models", unit="model"), strict=True):
        quality[path] = score_model(run, held_out, actions, seed, oracle)
    result = {
        "env": str(first.env.get("task") or first.env.get("id") or first.env._target_),
        "episodes": episodes,
        "evaluation_seed": seed,
        "rows": with_intervals(rows),
        "quality": quality,
        "planned_over_oracle": over_oracle(rows),
    }
    report = Report(Path(to), "compare", result, table(result), draw(result))
    report.write()
    report.show()
    return result


def words_of(planner: str) -> list[str]:
    """``tdmpc mpc=false`` as words of a configuration."""
    name, *options = planner.split()
    return [f"planner={name}"] + [f"planner.{option}" for option in options]


def learned_row(entry: Entry, episodes: int, seed: int) -> dict[str, Any]:
    """Return a planner's scores on a run's model, or a reason where it has learned parts that the run lacks."""
    row = {"model": entry.model, "planner": entry.planner}
    run = open_run_or_reason(entry)
    if isinstance(run, str):
        log.warning("%s on %s is left out: %s", entry.planner, entry.model, run)
        return row | {"returns": None, "reason": run}
    try:
        return row | scored(label(row), play_held_out(run, episodes, seed, explore=False))
    except UserError as error:
        log.warning("%s on %s is left out: %s", entry.planner, entry.model, error)
        return row | {"returns": None, "reason": str(error)}


def scored(name: str, played: EpisodeBatch) -> dict[str, Any]:
    """Returns, and the share of episodes that were solved where the environment tells."""
    log.info("%s: %.1f ± %.1f", name, statistics.fmean(played.returns), statistics.pstdev(played.returns))
    solved = played.successes()
    return {"returns": played.returns} | ({} if solved is None else {"success_rate": statistics.fmean(solved)})


def open_run_or_reason(entry: Entry) -> Run | str:
    """The run with that planner, or why it cannot have it."""
    try:
        return open_run(entry.model, words_of(entry.planner))
    except NotLearned as error:
        return str(error)


def bounds(run: Run, planners: list[str], episodes: int, seed: int, oracle: bool) -> list[dict[str, Any]]:
    """Play the oracle under each planner that can plan with it, or else mppi. Then play what looks at nothing."""
    rows: list[dict[str, Any]] = []
    if oracle:
        known = [oracle_row(run, planner, episodes, seed) for planner in tqdm(planners, desc="oracle", unit="planner")]
        rows = [row for row in known if row is not None]
        if "mppi" not in planners and not any(row["returns"] for row in rows):
            rows.append(oracle_row(run, "mppi", episodes, seed))
    for name, blind in baseline_policies(run).items():
        rows.append({"model": None, "planner": name, "returns": play_baseline(run.cfg.env, blind, episodes, seed)})
    return rows


def oracle_row(run: Run, planner: str, episodes: int, seed: int) -> dict[str, Any] | None:
    """Play a planner with the simulator for a model. None where it has learned parts or searches nothing."""
    searching = open_run_or_reason(Entry(str(run.path), planner))
    if (
        isinstance(searching, str)
        or list(searching.planner.parameters())
        or not searching.planner.imagination_size.rows
    ):
        return None
    row = {"model": "oracle", "planner": planner}
    try:
        return row | scored(label(row), evaluate_oracle(run.cfg.env, searching.planner, episodes, seed, explore=False))
    except UserError as error:  # no gradient, or an environment that cannot be put back
        log.warning("the oracle with planner=%s is left out: %s", planner, error)
        return row | {"returns": None, "reason": str(error)}


def score_model(
    run: Run, held_out: EpisodeBatch, actions: Float[Tensor, "N T A"], seed: int, oracle: bool
) -> dict[str, Any]:
    """Score how well a run's model predicts recorded futures and ranks invented ones, whatever plans with it."""
    scores: dict[str, Any] = {"errors": {}}
    try:
        scores["errors"] = prediction_errors(run, held_out)
    except UserError as error:
        log.warning("what %s predicts is left out: %s", run.path, error)
    if oracle:
        try:
            scores["ranking"] = ranking(run, seed, actions)
        except UserError as error:
            log.warning("how well %s ranks is left out: %s", run.path, error)
            scores["ranking"] = {"reason": str(error)}
    return scores


def with_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their mean, interquartile mean and its 95 % interval over episodes (Agarwal et al. 2021)."""
    return [row | (_described(np.asarray(row["returns"])) if row["returns"] else {}) for row in rows]


def _described(returns: Float[np.ndarray, " N"]) -> dict[str, Any]:
    low, high = interval(returns)
    return {
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "iqm": float(interquartile_mean(returns)),
        "interval": [low, high],
    }


def interquartile_mean(values: Float[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
    """Return the mean of the middle half, to which a few odd episodes mean little."""
    return np.asarray(trim_mean(values, 0.25, axis=axis))


def interval(values: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the interquartile mean; of one value, that value twice."""
    if len(values) == 1:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), interquartile_mean, n_resamples=RESAMPLED, method="percentile", rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def over_oracle(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide each planner's return with a model by its return, or the best one, with the oracle, both above random."""
    means = {(row["model"], row["planner"]): statistics.fmean(row["returns"]) for row in rows if row["returns"]}
    random = means[None, "random"]
    best_of_all = max((mean for (model, _), mean in means.items() if model == "oracle"), default=None)
    ratios = []
    for (model, planner), mean in means.items():
        best = means.get(("oracle", planner), best_of_all)
        if model not in (None, "oracle") and best is not None and best > random:
            ratios.append({"model": model, "planner": planner, "ratio": (mean - random) / (best - random)})
    return ratios
