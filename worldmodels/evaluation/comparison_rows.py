"""Rows of a comparison, played: planners on learned models, searches on the simulator, and what looks at nothing."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from planners.base import Planner
from planners.guided import Guided
from planners.search.shooting import SamplingPlanner
from worldmodels.common import precision
from worldmodels.errors import UserError
from worldmodels.evaluation.baselines import baseline_policies
from worldmodels.evaluation.comparison_report import SIMULATOR, label
from worldmodels.evaluation.report import play_held_out
from worldmodels.evaluation.rollout import EpisodeBatch, evaluate_oracle, is_guided_search, play_baseline
from worldmodels.evaluation.scores import described
from worldmodels.runs.folders import NotLearned
from worldmodels.runs.loading import Run, open_run
from worldmodels.runs.seeds import Trainings

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
    return play_held_out(run, episodes, seed, run.cfg.evaluation.explore), run.frames


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
    amp = precision.acting_context(run.cfg.trainer, run.model.device)
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
