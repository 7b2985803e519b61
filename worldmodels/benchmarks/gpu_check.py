"""`scripts/gpu_check.py`: whether all is right and fast on this GPU, within minutes. In small where there is none."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodels.benchmarks.check_runner import DONE, FAILED, Check, Results, Setting, run_checks
from worldmodels.benchmarks.gpu_checks import all_checks
from worldmodels.benchmarks.gpu_report import figures, report
from worldmodels.benchmarks.training import machine
from worldmodels.common import precision
from worldmodels.common.figures import write_figure
from worldmodels.errors import UserError, near_match

log = logging.getLogger(__name__)

REPORT_SECONDS = 8.0
"""Kept back of the minutes for ending a process and writing the report."""


def check(
    minutes: float | int = 10, to: str = "gpu_check", only: Sequence[str] = (), checks: Sequence[Check] | None = None
) -> int:
    """Run the checks, or what an earlier start has left of them. Return 1 where one has failed, else 0.

    Args:
        minutes: when to stop, whatever is left. What is left is told, and run by another start.
        to: the folder to write: ``gpu_check.json``, ``.md``, ``.png`` and ``lengths.png``.
        only: groups of checks, such as ``updates``.
        checks: other checks than :func:`all_checks`.
    """
    until = time.monotonic() + 60 * minutes - REPORT_SECONDS
    device = precision.device_of("auto")
    setting = Setting(device, device.type != "cuda")
    known = checks if checks is not None else all_checks(setting.small)
    groups = list(dict.fromkeys(one.group for one in known))
    for name in only:
        if name not in groups:
            raise UserError(f"only={name} is not one of {', '.join(groups)}.{near_match(name, groups)}")
    chosen = [one for one in known if not only or one.group in only]
    folder = Path(to)
    results = Results(folder / "gpu_check.json", machine(device))
    if setting.small:
        log.info("PyTorch sees no GPU: everything runs in small on the CPU, and its times say nothing")
    if kept := sum(results.status(one.name) == DONE for one in chosen):
        log.info("%d of %d checks are done already, by the same code on the same machine", kept, len(chosen))
    not_run = run_checks(chosen, setting, results, until)
    write(results, [name for name in not_run if results.status(name) is None])
    return int(any(found["status"] == FAILED for found in results.checks.values()))


def write(results: Results, not_run: Sequence[str]) -> None:
    """Write the table and the figures, and print the table."""
    results.info["not_run"] = list(not_run)
    results.write()
    found: list[dict[str, Any]] = list(results.checks.values())
    text = report(results.info, found, not_run)
    results.path.parent.mkdir(parents=True, exist_ok=True)
    results.path.with_suffix(".md").write_text(text + "\n")
    for name, figure in figures(found).items():
        write_figure(results.path.with_name(f"{name}.png"), figure)
    log.info("\n%s\n\nin %s: gpu_check.json, .md and .png", text, results.path.parent)
