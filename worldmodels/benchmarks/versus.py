"""`scripts/benchmark.py suite=versus`: another implementation's command and ours, in turns on the same machine.

Nothing of theirs is needed here but a command. It prints nothing, and its wall time counts, or its last line is a JSON
object whose ``seconds`` count, which leave out what it takes to start.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from worldmodels.benchmarks.training import benchmark, machine
from worldmodels.common import precision
from worldmodels.common.files import write_json
from worldmodels.common.terminal import tell_once
from worldmodels.config import load_config
from worldmodels.errors import UserError, brief, near_match, shown

log = logging.getLogger(__name__)

TURNS = 5
PART = "update"
PARTS = ("update", "planning step")
"""Parts of suite=training that others have too."""
START = "from worldmodels.benchmarks.versus import tell_part; tell_part()"
"""Python of our side's process."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables by which programs are told how many threads to use."""


def measure(
    overrides: list[str],
    other: str = "",
    ours: str = "",
    part: str = PART,
    repeats: int = TURNS,
    threads: int | None = None,
    to: str = "benchmark_versus.json",
) -> dict[str, Any]:
    """Run both commands in turns, print medians and ratios, write the JSON anew after each turn."""
    if not other:
        raise UserError('suite=versus compares with another command: say other="<command>".', option="other")
    if ours and (overrides or part != PART):
        raise UserError(f"{(overrides or [f'part={part}'])[0]} has no effect beside ours=: put it into that command.")
    if part not in PARTS:
        raise UserError(f"part={part} is not one of {', '.join(PARTS)}.{near_match(part, PARTS)}", option="part")
    cfg = load_config(overrides)
    threads = threads or cfg.trainer.threads or torch.get_num_threads()
    mine = words_of("ours", ours) if ours else [sys.executable, "-c", START, part, *overrides]
    commands = {"ours": mine, "other": words_of("other", other)}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    info = {
        "ours": ours or f"suite=training, {part}",
        "other": other,
        "overrides": overrides,
        "machine": machine(precision.device_of(cfg.trainer.accelerator)) | {"threads": threads},
    }
    for _ in tqdm(range(repeats), unit="turn", file=sys.stdout):
        for name, command in commands.items():
            seconds[name].append(seconds_of(name, command, threads))
        result = info | compared(seconds)
        write_json(Path(to), result)
    log.info("%s", table(result))
    return result


def words_of(name: str, command: str) -> list[str]:
    """Split a command as a shell does."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{name}={shown(command)} is no command ({brief(error)}).", option=name) from None
    if not words:
        raise UserError(f"{name}= is empty: give it a command.", option=name)
    return words


def seconds_of(name: str, command: Sequence[str], threads: int) -> float:
    """Run a command and return what it took: what its last line says, or its wall time where it prints nothing."""
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    except OSError as error:
        raise UserError(f"{name}: {shown(command[0])} cannot be run ({error.strerror}): is it installed?") from error
    wall = time.perf_counter() - start
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"exited with {done.returncode}"
        raise UserError(f"{name}: {shown(shlex.join(command))} {how}: {brief(lines[-1])}.")
    lines = done.stdout.strip().splitlines()
    if lines:
        return said_seconds(name, lines[-1])
    tell_once(log, f"{name}: it prints nothing, so that its wall time counts, with all that it does to start")
    return wall


def said_seconds(name: str, line: str) -> float:
    """Read ``seconds`` of a JSON object."""
    try:
        found = json.loads(line)["seconds"]
    except (ValueError, TypeError, KeyError):
        found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
        raise UserError(
            f'{name}: its last line must be a JSON object such as {{"seconds": 0.12}}, and is {shown(line)}; a command '
            "that prints nothing is timed from outside."
        )
    return float(found)


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the medians, and how many times as long as ours the other takes: in each turn, at the median, the range.

    The two of a turn stand side by side: what slows a machine down for minutes slows both.
    """
    ratios = [other / ours for ours, other in zip(seconds["ours"], seconds["other"], strict=True)]
    return {
        "seconds": {name: list(times) for name, times in seconds.items()},
        "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def table(result: dict[str, Any]) -> str:
    """A line a turn, then medians and the spread of the ratio."""
    turns = zip(result["seconds"]["ours"], result["seconds"]["other"], result["ratios"], strict=True)
    lines = [f"{'turn':<8}{'ours, s':>12}{'other, s':>12}{'other/ours':>12}"]
    lines += [f"{i + 1:<8}{ours:>12.4f}{other:>12.4f}{ratio:>12.2f}" for i, (ours, other, ratio) in enumerate(turns)]
    medians, (low, high) = result["median_seconds"], result["range"]
    lines.append(
        f"{'median':<8}{medians['ours']:>12.4f}{medians['other']:>12.4f}{result['median_ratio']:>12.2f}"
        f"   ({low:.2f} to {high:.2f})"
    )
    return "\n".join(lines)


def tell_part() -> None:
    """Time the part that the command line names, and print its seconds for whoever started this process."""
    part, *overrides = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        times = benchmark(overrides, to=str(Path(folder) / "ours.json"), only=(part,))["milliseconds"]
    sys.stdout.write(json.dumps({"seconds": times[part]["median"] / 1000}) + "\n")
