"""`scripts/benchmark.py suite=backbones`: what a backbone costs against the length of its sequences."""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dynamics.base import Dynamics, Rollout
from planners.search.memory_budget import free_bytes
from worldmodels.benchmarks.backbones_report import IMAGINED, draw, exponent, table
from worldmodels.benchmarks.peak import PeakMemory
from worldmodels.benchmarks.subjects import ACTION, EMBED, Subject, subjects
from worldmodels.benchmarks.training import WARM_UP, finish, machine, timed
from worldmodels.common import precision
from worldmodels.common.files import Report
from worldmodels.common.terminal import show_log
from worldmodels.config import config_dir, load_config
from worldmodels.envs.stream import depend_on_parent
from worldmodels.errors import UserError, near_match
from worldmodels.training.malloc import keep_freed_memory

log = logging.getLogger(__name__)

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
AGES = (10, 10_000)
"""Steps after which an acting step is timed."""
SPENT = 40.0
"""Seconds a single call may be expected to take, and ..."""
FULL = 0.7
"""... share of the free memory it may be expected to need; beyond either a length is left out, and said to be."""
PATIENCE, LEAST = 10.0, 3
"""Seconds after which warming up ends, and timing too once there are so many times."""
OVERRULED = {
    "dynamics": "only= chooses backbones",
    "dynamics.posterior": "both are measured",
    "dynamics.hidden": "parameters= decides",
    "size.hidden": "parameters= decides",
    "size.deter": "parameters= decides",
    "dynamics.core.window": "it is as long as the sequence",
    "trainer.precision": "all is measured in fp32",
    "trainer.compile": "nothing is compiled",
}
"""Words without effect here, and why."""


def measure(
    overrides: list[str],
    lengths: Sequence[int] = LENGTHS,
    only: Sequence[str] = (),
    parameters: int = 1_000_000,
    batch: int = 4,
    repeats: int = 5,
    to: str = "backbones.json",
    ages: Sequence[int] = AGES,
) -> list[dict[str, Any]]:
    """Measure every backbone of ``configs/dynamics``. Write a table, a JSON and a figure, anew after each of them."""
    for word in overrides:
        if reason := OVERRULED.get(word.partition("=")[0]):
            raise UserError(f"{word} has no effect with suite=backbones: {reason}.")
    names = sorted(path.stem for path in (config_dir() / "dynamics").glob("[!_]*.yaml"))
    for name in only:
        if name not in names:
            raise UserError(f"only={name} is not one of {', '.join(names)}.{near_match(name, names)}")
    if not to.endswith(".json"):
        raise UserError(f"to={to} must end in .json; the table and the figure are written beside it.")
    cfg, target, results = load_config(overrides), Path(to), []
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    chosen = [s for name in names if not only or name in only for s in subjects(name, parameters, overrides)]
    info = {
        "machine": machine(precision.device_of(cfg.trainer.accelerator)),
        "overrides": overrides,
        "batch": batch,
        "repeats": repeats,
        "imagined": IMAGINED,
    }
    for subject in tqdm(chosen, unit="backbone", file=sys.stdout):
        result = {"name": str(subject), "words": list(subject.words), "costs": {}}
        for message in in_process(
            subject, lengths, ages, batch, repeats, torch.get_num_threads(), cfg.trainer.accelerator
        ):
            result |= {**message, "costs": result["costs"] | message.get("costs", {})}
        result["exponents"] = {what: exponent(result["costs"], what) for what in ("train_ms", "imagine_ms", "train_mb")}
        results.append(result)
        Report(target.parent, target.stem, info | {"backbones": results}, table(results), draw(results)).write()
    log.info("\n%s", table(results))
    return results


def in_process(subject: Subject, *arguments: Any) -> Iterator[dict[str, Any]]:
    """Measure in a process of its own, whose memory is nobody else's. Yield what it sends, until it ends or dies."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=measure_subject, args=(theirs, subject, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            yield ours.recv()
    except EOFError:
        process.join()
        if process.exitcode:
            log.warning("%s: its process ended with %s, what is missing was not measured", subject, process.exitcode)


def measure_subject(
    out: Connection,
    subject: Subject,
    lengths: Sequence[int],
    ages: Sequence[int],
    batch: int,
    repeats: int,
    threads: int,
    where: str,
) -> None:
    """Send the parameter count, the costs of an acting step, and those of each length that is affordable."""
    depend_on_parent()
    show_log()
    keep_freed_memory()
    torch.set_num_threads(threads)
    device, known = precision.device_of(where), {}
    out.send({"parameters": sum(p.numel() for p in subject.build(64).parameters())})
    out.send({"acting_ms": acting(subject.build(64).to(device), ages, device)})
    for length in sorted(lengths):
        parts, found = Parts(subject.build(length).to(device), batch, length, device), {}
        for what, prepare in parts.calls().items():
            if reason := too_much(known, length, what, free_bytes(device) / 1e6):
                found[f"{what}_skipped"] = reason
                continue
            found |= {f"{what}_{unit}": value for unit, value in cost(prepare(), repeats, device).items()}
        known[length] = found
        if copies := parts.copied_mb():
            found |= {"copied_mb": copies}
            found |= {"share": found["imagine_mb"] / copies} if "imagine_mb" in found else {}
        out.send({"costs": {length: found}})


class Parts:
    """Computations that are timed at one length."""

    def __init__(self, dynamics: Dynamics, batch: int, length: int, device: torch.device) -> None:
        self.dynamics, self.batch, self.length = dynamics, batch, length
        self.embed = torch.randn(batch, length, EMBED, device=device)
        self.action = torch.rand(batch, length, ACTION, device=device) * 2 - 1
        self.reset = torch.rand(batch, length, device=device) < 1 / 250
        self.reset[:, 0] = True

    def calls(self) -> dict[str, Callable[[], Callable[[], Any]]]:
        """Return what prepares training without encoder and decoder, and imagination. Neither is prepared in vain."""
        return {"train": lambda: self.train, "imagine": self.imagination}

    def copied_mb(self) -> float | None:
        """Megabytes of as many acting memories as there are posteriors, where imagined rows have something to share."""
        if len(self.dynamics.layouts) == 1:
            return None
        one = sum(value.nbytes for value in self.dynamics.initial(1).memory.values())
        return self.batch * self.length * one / 1e6

    def observe(self) -> Rollout:
        """Filter sequences that begin from nothing."""
        initial = self.dynamics.initial(self.batch)
        return self.dynamics.observe(self.embed, self.action, self.reset, initial)[0]

    def train(self) -> None:
        """Observe and differentiate the losses."""
        rollout = self.observe()
        losses = self.dynamics.loss(rollout, self.reset)
        (rollout.feat.square().mean() + sum(loss.mean() for loss in losses.values())).backward()

    @torch.no_grad()
    def imagination(self) -> Callable[[], None]:
        """Observe, and return what imagines from every posterior of the batch."""
        return partial(self.imagine, self.observe())

    @torch.no_grad()
    def imagine(self, rollout: Rollout) -> None:
        """From every posterior of a rollout."""
        state = self.dynamics.starts(rollout)
        action = torch.zeros(len(state.feat), ACTION, device=state.feat.device)
        for _ in range(IMAGINED):
            state = self.dynamics.img_step(action, state)


def cost(call: Callable[[], Any], repeats: int, device: torch.device) -> dict[str, float]:
    """Warm median milliseconds of so many calls, and peak megabytes above what was there before the first one."""
    with PeakMemory(device) as memory:
        call()
    several(call, device, 1, WARM_UP)  # until the allocator has all the pages that a call takes
    times = several(call, device, min(LEAST, repeats), repeats)
    return {"ms": 1000 * statistics.median(times), "calls": len(times), "mb": memory.megabytes}


def several(call: Callable[[], Any], device: torch.device, least: int, most: int) -> list[float]:
    """Seconds of each of ``most`` calls, or of as many as patience allows, but of ``least``."""
    times: list[float] = []
    while len(times) < most and (len(times) < least or sum(times) < PATIENCE):
        times.append(timed(call, device))
    return times


def too_much(known: dict[int, dict[str, Any]], length: int, what: str, free: float) -> str | None:
    """Return why ``what`` is not to be measured at ``length``, judging by how it grew so far. None where it can be."""
    before = [n for n in sorted(known) if f"{what}_ms" in known[n]]
    if not before:
        return None if not known else "left out at a shorter length"
    if before[-1] != max(known):
        return "left out at a shorter length"
    for unit, limit, name in (("ms", 1000 * SPENT, "s"), ("mb", FULL * free, "GB")):
        values = [known[n][f"{what}_{unit}"] for n in before[-2:]]
        slope = 2.0
        if len(values) > 1:
            slope = np.log(max(values[1], 1.0) / max(values[0], 1.0)) / np.log(before[-1] / before[-2])
        expected = values[-1] * (length / before[-1]) ** min(max(slope, 0.0), 3.0)
        if expected > limit:
            return f"would take about {expected / 1000:.0f} {name}"
    return None


@torch.no_grad()
def acting(dynamics: Dynamics, ages: Sequence[int], device: torch.device) -> dict[str, float]:
    """Milliseconds of filtering one frame when so many have been: median of the hundred steps from then on."""
    state, times = dynamics.initial(1), {age: [] for age in ages}
    embed, action = torch.randn(1, EMBED, device=device), torch.zeros(1, ACTION, device=device)
    reset = torch.zeros(1, dtype=torch.bool, device=device)
    for _ in range(50):
        dynamics.obs_step(embed, action, reset, state)
    for step in range(max(ages) + 100):
        start = time.perf_counter()
        state = dynamics.obs_step(embed, action, reset, state)
        finish(device)
        for age, found in times.items():
            if age <= step < age + 100:
                found.append(1000 * (time.perf_counter() - start))
    return {str(age): statistics.median(found) for age, found in times.items()}
