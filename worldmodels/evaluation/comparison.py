"""`scripts/compare.py`: planners x models from the same starts, beside searches on the simulator and baselines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from worldmodels.common.files import Report, require_writable
from worldmodels.errors import UserError, near_match
from worldmodels.evaluation.baselines import baseline_policies
from worldmodels.evaluation.comparison_report import BOUND, SIMULATOR, draw, label, table
from worldmodels.evaluation.comparison_rows import (
    Entry,
    Row,
    learned_row,
    open_run_or_reason,
    references,
    row_of,
    simulated_row_of,
)
from worldmodels.evaluation.model_metrics import common_episodes, mixed_actions, prediction_errors, ranking
from worldmodels.evaluation.rollout import EpisodeBatch, concat
from worldmodels.evaluation.scores import Scores, best_reached, described, difference, share
from worldmodels.runs.edit import world_of
from worldmodels.runs.folders import read_config
from worldmodels.runs.loading import Run, open_run
from worldmodels.runs.seeds import Trainings, by_configuration

log = logging.getLogger(__name__)


def compare(
    runs: list[str],
    planners: list[str] | None = None,
    episodes: int = 10,
    seed: int = 1000,
    simulator: bool = True,
    bound: bool = False,
    against: str | None = None,
    to: str = "compare",
) -> dict[str, Any]:
    """Play every entry of the grid, measure every model, write JSON, table and figure. Return the JSON's content.

    Args:
        runs: run folders; those that differ in their seed alone make one row.
        planners: words, by default those of the trainings.
        episodes: how many starts each plays.
        seed: of the evaluation.
        simulator: whether searches play on the simulator too.
        bound: whether searches that see farther and try more do, which takes long.
        against: the row from which others' differences are told; None: the first with returns.
        to: the folder.
    """
    first = read_config(Path(runs[0]))
    for path in runs[1:]:
        require_same_world(read_config(Path(path)).env, first.env, path, runs[0])
    if bound and not simulator:
        raise UserError("bound=true searches on the simulator: leave simulator=false out.")
    planners = planners or list(dict.fromkeys(read_config(Path(path)).choices.planner for path in runs))
    rows_of = by_configuration(runs)
    grid = [(trainings, planner) for trainings in rows_of for planner in planners]
    models = open_all(runs, grid)
    if against is not None:
        require_row(against, possible_names(grid, models[runs[0]], simulator))
    require_writable(Path(to))
    with logging_redirect_tqdm():
        rows = [learned_row(*entry, episodes, seed) for entry in tqdm(grid, desc="planners x models", unit="entry")]
        rows += references(rows_of, planners, episodes, seed, simulator, bound)
    quality = score_models(models, seed, simulator)
    told = compared(rows, against)
    ratios = [
        {"model": row["model"], "planner": row["planner"], **row["of_simulator"]}
        for row in told
        if "of_simulator" in row
    ]
    result = {
        "env": task_of(first),
        "episodes": episodes,
        "evaluation_seed": seed,
        "against": against or next((label(row) for row in told if row.get("against")), None),
        "rows": told,
        "quality": quality,
        "planned_over_simulator": ratios,
        "planned_over_oracle": ratios,  # its name before, for one release
    }
    report = Report(Path(to), "compare", result, table(result), draw(result))
    report.write()
    report.show()
    return result


def task_of(cfg: DictConfig) -> str:
    """Name what a run's environment is."""
    return str(cfg.env.get("task") or cfg.env.get("id") or cfg.env._target_)


def require_same_world(env: DictConfig, first: DictConfig, path: str, first_path: str) -> None:
    """Refuse a run whose evaluation would have other starts, because its environment is another."""
    here, there = world_of(env), world_of(first)
    if here == there:
        return
    key = next(key for key in here | there if here.get(key) != there.get(key))
    raise UserError(
        f"{path} and {first_path} were trained in different environments (env.{key} is "
        f"{here.get(key)} and {there.get(key)}), which have other tasks or starts: compare them one by one."
    )


def open_all(runs: Sequence[str], grid: Sequence[tuple[Trainings, str]]) -> dict[str, Run]:
    """Open every model, after every entry: a mistake in the last one belongs before the first is played."""
    for trainings, planner in grid:
        for path in trainings.paths:
            open_run_or_reason(Entry(path, planner))
    return {path: open_run(path, []) for path in runs}


def possible_names(grid: Sequence[tuple[Trainings, str]], run: Run, simulator: bool) -> list[str]:
    """List the names of rows that others can be told against."""
    rows = [row_of(trainings, planner) for trainings, planner in grid]
    if simulator:
        for trainings, planner in grid:
            rows += [simulated_row_of(trainings, planner, learned) for learned in (True, False)]
        rows.append({"model": SIMULATOR, "planner": "mppi"})
    rows += [{"model": None, "planner": name} for name in baseline_policies(run)]
    return [label(row) for row in rows]


def require_row(name: str, known: Sequence[str]) -> None:
    """Refuse a row that there will not be."""
    if name not in known:
        raise UserError(f"against={name} is no row of this comparison, such as {known[0]!r}.{near_match(name, known)}")


def score_models(models: Mapping[str, Run], seed: int, simulator: bool) -> dict[str, Any]:
    """Score models, by the paths of their runs, on the same episodes and invented actions."""
    recorded = common_episodes(list(models.values()), seed)
    held_out, actions = concat(recorded), mixed_actions(recorded)
    return {
        path: score_model(run, held_out, actions, seed, simulator)
        for path, run in tqdm(models.items(), desc="models", unit="model")
    }


def score_model(
    run: Run, held_out: EpisodeBatch, actions: Float[Tensor, "N T A"], seed: int, simulator: bool
) -> dict[str, Any]:
    """Score how well a run's model predicts recorded futures and ranks invented ones, whatever plans with it."""
    scores: dict[str, Any] = {"errors": {}}
    try:
        scores["errors"] = prediction_errors(run, held_out)
    except UserError as error:
        log.warning("what %s predicts is left out: %s", run.path, error)
    if simulator:
        try:
            scores["ranking"] = ranking(run, seed, actions)
        except UserError as error:
            log.warning("how well %s ranks is left out: %s", run.path, error)
            scores["ranking"] = {"reason": str(error)}
    return scores


def scores_of(row: Mapping[str, Any]) -> Scores:
    """Return a row's returns, a line a training."""
    return np.asarray(row["by_seed"])


def compared(rows: list[Row], against: str | None) -> list[Row]:
    """Tell rows by their differences from one, as shares of the best reached, and of their search on the simulator."""
    known = [row for row in rows if row["returns"] is not None]
    [nothing] = [scores_of(row) for row in known if (row["model"], row["planner"]) == (None, "random")]
    best, makers = best_reached({label(row): scores_of(row) for row in known})
    bound = {"model": BOUND, "planner": BOUND, "runs": [], **described(best, None), "by": makers}
    base = next((row for row in known if against in (None, label(row))), None)
    if base is None:
        log.warning("differences are left out: %s has no returns", against)
    told = []
    for row in [*rows, bound]:
        row = dict(row)
        if row["returns"] is not None:
            if base is not None and label(row) == label(base):
                row["against"] = True
            elif base is not None:
                trained = (row["seeds"] is not None, base["seeds"] is not None)
                row["difference"] = difference(scores_of(row), scores_of(base), trained)
            if row["model"] != BOUND and (of_bound := share(scores_of(row), best, nothing)):
                row["of_bound"] = of_bound
            if of_simulator := over_simulator(row, known, nothing):
                row["of_simulator"] = of_simulator
        told.append(row)
    return told


def over_simulator(row: Row, rows: Sequence[Row], nothing: Scores) -> dict[str, Any] | None:
    """Divide a return on a model by that of the same planner, and the same guide, on the simulator, both above random.

    None where that planner has not searched there: another's search would be no measure of this one's model.
    """
    if row["model"] in (None, SIMULATOR, BOUND):
        return None
    searches = [
        other
        for other in rows
        if (other["model"], other["planner"]) == (SIMULATOR, row["planner"]) and other["runs"] in ([], row["runs"])
    ]
    if not searches:
        return None
    guided = bool(searches[0]["runs"])
    return share(scores_of(row), scores_of(searches[0]), nothing, same_trainings=guided)
