"""Train and score every backbone on the same recorded episodes. Write one table and one figure."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from omegaconf import DictConfig

from worldmodels.common.arguments import shell_word
from worldmodels.common.files import Report
from worldmodels.common.terminal import CtrlC, Interrupted
from worldmodels.envs.stream import depend_on_parent
from worldmodels.errors import UserError
from worldmodels.recall.episodes import provide_data
from worldmodels.recall.grid import Cell, cells, require_sense, result_file
from worldmodels.recall.report import ERRORS, TASKS, draw, footnote, table
from worldmodels.recall.training import train_cell
from worldmodels.runs.folders import run_folder, save_config

log = logging.getLogger(__name__)


def run(cfg: DictConfig, words: list[str], resume: Path | None) -> Path:
    """Record, train and score every cell that has not been. Write ``memory.json``, ``memory.md`` and ``memory.png``.

    Raises:
        UserError: words that make no sense here; trainings that failed, when all others are done.
    """
    require_sense(cfg, words, resume)
    with run_folder(cfg, resume) as folder:
        save_config(cfg, folder)
        return make(cfg, folder)


def make(cfg: DictConfig, folder: Path) -> Path:
    """Make what :func:`run` makes, in ``folder``."""
    log.info("run folder: %s", folder)
    todo = [cell for cell in cells(cfg) if not result_file(folder, cell).exists()]
    with CtrlC() as ctrl_c:
        for cell in {cell.data: cell for cell in todo}.values():
            provide_data(cfg, folder, cell, ctrl_c)
        summarize(cfg, folder)
        for done, said in enumerate(trained(cfg, folder, todo, ctrl_c), 1):
            log.info("%d of %d: %s", done, len(todo), said)
            summarize(cfg, folder)
    if ctrl_c.pressed:
        go_on = shell_word("resume", folder)
        log.info("\n%s holds what is finished; continue with\n  python scripts/train.py %s", folder, go_on)
        raise Interrupted
    log.info("\n%s", (folder / "memory.md").read_text())
    missing = [cell.name for cell in todo if not result_file(folder, cell).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} trainings failed, {missing[0]} first: see {failure_file(folder, missing[0])}, "
            f"and continue with {shell_word('resume', folder)}."
        )
    return folder


def trained(cfg: DictConfig, folder: Path, todo: list[Cell], ctrl_c: CtrlC) -> Iterator[str]:
    """Train cells, a few at a time in processes that end with the block. Yield the outcome of each."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(cfg.memory.workers, context, initializer=depend_on_parent)
    finished = False
    try:
        waiting = {pool.submit(train_cell, cfg, str(folder), cell): cell for cell in todo}
        while waiting and not ctrl_c.pressed:
            done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: future.exception() is not None):
                yield outcome(future, folder, waiting.pop(future))
        finished = not waiting
    finally:
        if not finished:  # one that ends by itself gives its semaphores back
            for process in multiprocessing.active_children():
                process.kill()
        pool.shutdown(cancel_futures=True)


def outcome(future: Future[str], folder: Path, cell: Cell) -> str:
    """Return the outcome of a training. The reason of a failure is written down, and the others go on."""
    file = failure_file(folder, cell.name)
    error = future.exception()
    if error is None:
        file.unlink(missing_ok=True)
        return future.result()
    if isinstance(error, BrokenProcessPool):
        raise UserError(
            "a training was killed, probably for want of memory: lower memory.workers or memory.delays and continue "
            "with resume=<this run>."
        ) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(traceback.format_exception(error)))
    return f"{cell.name} failed: {' '.join(str(error).split())}"


def failure_file(folder: Path, name: str) -> Path:
    """Return the file of the reason for which a training failed."""
    return folder / "cells" / name / "failed.txt"


def summarize(cfg: DictConfig, folder: Path) -> None:
    """Tables and the figure of all cells that are finished, those of earlier words included."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("cells/*/result.json"))]
    for result in results:  # what is not a number is null in JSON
        result["scores"] = {name: math.nan if score is None else score for name, score in result["scores"].items()}
    order = [*cfg.memory.backbones, *sorted(result["dynamics"] for result in results)]
    results.sort(key=lambda result: (order.index(result["dynamics"]), result["posterior"] or "", result["delay"]))
    failed = sorted(file.parent.name for file in folder.glob("cells/*/failed.txt"))
    parts = [
        *(table(results, task) for task in TASKS),
        ERRORS,
        footnote(results),
        *(["failed: " + ", ".join(failed)] * bool(failed)),
    ]
    content = {"tasks": TASKS, "cells": results, "failed": failed}
    figure = draw(results) if results else None
    Report(folder, "memory", content, "\n\n".join(filter(None, parts)), figure).write()
