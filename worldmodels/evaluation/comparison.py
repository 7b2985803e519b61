"""`scripts/compare.py`: planners x models from the same starts, beside searches on the simulator and baselines."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from planners.base import Planner
from planners.guided import Guided
from planners.search.shooting import SamplingPlanner
from worldmodels.common import precision
from worldmodels.common.files import Report, require_writable
from worldmodels.errors import UserError, near_match
from worldmodels.evaluation.baselines import baseline_policies
from worldmodels.evaluation.comparison_report import BOUND, SIMULATOR, draw, label, table
from worldmodels.evaluation.model_metrics import common_episodes, mixed_actions, prediction_errors, ranking
from worldmodels.evaluation.report import play_held_out
from worldmodels.evaluation.rollout import EpisodeBatch, concat, evaluate_oracle, is_guided_search, play_baseline
from worldmodels.evaluation.scores import Scores, best_reached, described, difference, share
from worldmodels.runs.edit import world_of
from worldmodels.runs.folders import NotLearned, read_config
from worldmodels.runs.loading import Run, open_run
from worldmodels.runs.seeds import Trainings, by_configuration

log = logging.getLogger(__name__)

LONGER = (2, 4)
"""Factors of ``plan_horizon`` in the searches for the bound."""
BROADER = 8
"""Factor of ``num_samples`` in the search for the bound that is broader."""

Row = dict[str, Any]


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
    for trainings, planner in grid:  # a mistake in the last one belongs before the first is played
        for path in trainings.paths:
            open_run_or_reason(Entry(path, planner))
    models = {path: open_run(path, []) for path in runs}
    if against is not None:
        require_row(against, possible_names(grid, models[runs[0]], simulator))
    require_writable(Path(to))
    with logging_redirect_tqdm():
        rows = [learned_row(*entry, episodes, seed) for entry in tqdm(grid, desc="planners x models", unit="entry")]
        rows += references(rows_of, planners, episodes, seed, simulator, bound)
    recorded, quality = common_episodes(list(models.values()), seed), {}
    held_out, actions = concat(recorded), mixed_actions(recorded)
    for path, run in tqdm(models.items(), desc="models", unit="model"):
        quality[path] = score_model(run, held_out, actions, seed, simulator)
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


def words_of(planner: str) -> list[str]:
    """``tdmpc mpc=false`` as words of a configuration."""
    name, *options = planner.split()
    return [f"planner={name}"] + [f"planner.{option}" for option in options]


def row_of(trainings: Trainings, planner: str) -> Row:
    """Begin a row: a planner on the models of some trainings."""
    row = {"model": trainings.paths[0], "planner": planner, "name": trainings.name}
    return row | {"runs": trainings.paths, "seeds": trainings.seeds}


def simulated_row_of(trainings: Trainings, planner: str, learned: bool) -> Row:
    """Begin a row of a search on the simulator. It belongs to trainings where these guide it."""
    row = row_of(trainings, planner) | {"model": SIMULATOR}
    return row if learned else row | {"runs": [], "seeds": None}


def learned_row(trainings: Trainings, planner: str, episodes: int, seed: int) -> Row:
    """Return a planner's scores on the models of some trainings, or why one has none."""
    row = row_of(trainings, planner)
    return played(row, [partial(play_learned, path, planner, episodes, seed) for path in trainings.paths])


def play_learned(path: str, planner: str, episodes: int, seed: int) -> tuple[EpisodeBatch, int]:
    """Return episodes of a planner on a run's model, and the frames of its training."""
    run = open_run(path, words_of(planner))
    return play_held_out(run, episodes, seed, explore=False), run.frames


def played(row: Row, trainings: Sequence[Callable[[], tuple[EpisodeBatch, int]]]) -> Row:
    """Play a row, one training after another. A reason takes the returns' place where one cannot be played."""
    try:
        batches = [play() for play in trainings]
    except UserError as error:  # no such learned parts, no gradient, an environment that cannot be put back
        log.warning("%s is left out: %s", label(row), error)
        return row | {"returns": None, "reason": str(error)}
    scores = np.asarray([batch.returns for batch, _ in batches])
    log.info("%s: %.1f ± %.1f", label(row), scores.mean(), np.sqrt(scores.var(1).mean()))
    row = row | described(scores, row["seeds"])
    if row["seeds"] is not None:
        row["frames"] = [frames for _, frames in batches]
    solved = [batch.successes() for batch, _ in batches]
    if None in solved:
        return row
    return row | {"success_rate": statistics.fmean(statistics.fmean(each) for each in solved)}


def open_run_or_reason(entry: Entry) -> Run | str:
    """The run with that planner, or why it cannot have it."""
    try:
        return open_run(entry.model, words_of(entry.planner))
    except NotLearned as error:
        return str(error)


def references(
    rows_of: Sequence[Trainings], planners: list[str], episodes: int, seed: int, simulator: bool, bound: bool
) -> list[Row]:
    """Play what searches on the simulator: planners that can, or else mppi. Then play what looks at nothing."""
    rows: list[Row] = []
    if simulator:
        rows = simulator_rows(rows_of, planners, episodes, seed)
        if "mppi" not in planners and not any(row["returns"] for row in rows):
            rows += simulator_rows(rows_of, ["mppi"], episodes, seed)
    if bound:
        searches = [row["planner"] for row in rows if row["returns"]]
        harder = [more for planner in dict.fromkeys(searches) for more in harder_searches(rows_of[0].paths[0], planner)]
        rows += simulator_rows(rows_of, harder, episodes, seed)
    run = open_run(rows_of[0].paths[0], [])
    for name, blind in baseline_policies(run).items():
        returns = play_baseline(run.cfg.env, blind, episodes, seed, run.cfg.evaluation.max_steps)
        rows.append({"model": None, "planner": name, "runs": [], **described(np.asarray([returns]), None)})
    return rows


def simulator_rows(rows_of: Sequence[Trainings], planners: Sequence[str], episodes: int, seed: int) -> list[Row]:
    """Play planners that search on the simulator: once, or where something learned guides them, for each training."""
    rows: list[Row] = []
    for planner in tqdm(planners, desc="on the simulator", unit="planner"):
        for trainings in rows_of:
            try:
                opened = open_run_or_reason(Entry(trainings.paths[0], planner))
            except UserError as error:  # a plan longer than the model can imagine
                log.warning("%s on the simulator is left out: %s", planner, error)
                continue
            if isinstance(opened, str) or not opened.planner.imagination_size.rows:
                continue
            learned = bool(list(opened.planner.parameters()))
            if learned and not is_guided_search(opened.planner):
                continue
            row = simulated_row_of(trainings, planner, learned)
            paths = trainings.paths if learned else trainings.paths[:1]
            rows.append(played(row, [partial(play_simulated, path, planner, episodes, seed) for path in paths]))
            if not learned:  # nothing of a run is in it
                break
    return rows


def play_simulated(path: str, planner: str, episodes: int, seed: int) -> tuple[EpisodeBatch, int]:
    """Return episodes of a run's planner on the simulator, and the frames of what guides it."""
    run = open_run(path, words_of(planner))
    amp = precision.context(run.cfg.trainer.precision, run.model.device)
    max_steps = run.cfg.evaluation.max_steps
    return evaluate_oracle(run.cfg.env, run.planner, episodes, seed, False, run.model, amp, max_steps), run.frames


def harder_searches(path: str, planner: str) -> list[str]:
    """Return a planner as words with longer plans, and with more candidates. None of one that tries no sequences."""
    opened = open_run_or_reason(Entry(path, planner))
    searching: Planner | str = opened if isinstance(opened, str) else opened.planner
    inner = searching.search if isinstance(searching, Guided) else searching
    if not isinstance(inner, SamplingPlanner):
        return []
    place = "search." if isinstance(searching, Guided) else ""
    longer = [f"{planner} {place}plan_horizon={factor * inner.plan_horizon}" for factor in LONGER]
    return [*longer, f"{planner} {place}num_samples={BROADER * inner.settings.num_samples}"]


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
