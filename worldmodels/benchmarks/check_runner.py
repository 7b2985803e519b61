"""Running named checks within a given time: in a process of their own, which is ended where one takes too long."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from worldmodels.common.files import write_json
from worldmodels.common.version import code_version
from worldmodels.config import config_dir
from worldmodels.envs.stream import depend_on_parent, explain, kill, without_interrupts
from worldmodels.errors import UserError
from worldmodels.training.malloc import keep_freed_memory

log = logging.getLogger(__name__)

Tell = Callable[[dict[str, Any]], None]
"""Adds to what a check has found so far, which is kept where it is ended."""
DONE, FAILED, CUT = "done", "failed", "cut"
"""A check that came to its end, one that disagrees or broke, and one that was ended at its limit."""
TOLD, BROKEN = "told", "broken"
"""What else a process says: what a check has found so far, and that one broke, which may leave a GPU unusable."""
START_SECONDS = 90.0
"""How long a process may take until it is ready for its first check."""
LEAST_SECONDS = 2.0
"""Less than so much is no time for another check."""


@dataclass(frozen=True)
class Setting:
    """What a check runs on. ``small``: in small, where there is no GPU."""

    device: torch.device
    small: bool

    def pick(self, full: Any, small: Any) -> Any:
        """Return one of two values."""
        return small if self.small else full


@dataclass(frozen=True)
class Check:
    """A named check, a function at the top of a module, and the seconds that it may take."""

    name: str
    run: Callable[[Setting, Tell], None]
    seconds: float | int

    @property
    def group(self) -> str:
        """What stands before the colon of its name: checks of one group are shown in one table."""
        return self.name.partition(":")[0]


class Results:
    """Results of checks in a JSON that is written anew after each. Those of the same code and device are kept.

    Results of other code or another device, and a file that cannot be read, are put aside, which is told.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self.path = path
        self.info: dict[str, Any] = {"version": code_version(), "code": code_digest(), "machine": dict(machine)}
        self.checks: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            if all(found[key] == self.info[key] for key in ("code", "machine")):
                self.checks = {check["name"]: check for check in found["checks"]}
                return
            why = "results of other code or of another machine"
        except (ValueError, TypeError, KeyError):
            why = "no results that can be read"
        aside = path.with_name(f"{path.stem}_before.json")
        os.replace(path, aside)
        log.warning("%s held %s: it is now %s, and all is checked anew", path, why, aside.name)

    def add(self, name: str, **result: Any) -> None:
        """Put in a check's result, and write."""
        self.checks[name] = {"name": name, **result}
        self.write()

    def write(self) -> None:
        """Write all that is known."""
        write_json(self.path, self.info | {"checks": list(self.checks.values())})

    def status(self, name: str) -> str | None:
        """What became of a check, or None where it was not run."""
        return self.checks.get(name, {}).get("status")


def code_digest() -> str:
    """Return a number for the code and configurations that run, whatever git knows of them."""
    package = Path(__file__).resolve().parents[1]
    folders = (package, package.parent / "dynamics", package.parent / "planners", config_dir())
    files = sorted({path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".yaml")})
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run_checks(checks: Sequence[Check], setting: Setting, results: Results, until: float) -> list[str]:
    """Run what is not done yet, until the time (of the monotonic clock). Return the names of what was not run.

    Those never tried come first, then those that failed or were cut.
    """
    tried = {check.name for check in checks if results.status(check.name) is not None}
    todo = [check for check in checks if results.status(check.name) != DONE]
    todo.sort(key=lambda check: check.name in tried)
    worker = Worker(setting)
    try:
        for index, check in enumerate(todo):
            started = worker.ready(min(START_SECONDS, until - time.monotonic()))
            left = until - time.monotonic()
            if not started:
                log.warning("the process that runs checks is not ready: this machine is busy, or slow")
            if not started or left < LEAST_SECONDS:
                return [later.name for later in todo[index:]]
            limit = min(check.seconds, left)
            log.info("%s (at most %.0f s)", check.name, limit)
            result = worker.run(check, limit)
            results.add(check.name, limit=limit, **result)
            why = f": {result['error']}" if result["error"] else ""
            log.info("  %s after %.1f s%s", result["status"], result["seconds"], why)
    finally:
        worker.end()
    return []


class Worker:
    """A process that runs checks one after another, and a new one after each that had to be ended."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.process: multiprocessing.process.BaseProcess | None = None

    @cached_property
    def _context(self) -> Any:
        return multiprocessing.get_context("spawn")

    def ready(self, seconds: float | int) -> bool:
        """Start a process where there is none, and return whether it was ready in time."""
        if self.process is not None and self.process.is_alive():
            return True
        self.end()
        self.pipe, theirs = self._context.Pipe()
        self.process = self._context.Process(target=serve, args=(theirs, self.setting), daemon=True)
        with without_interrupts():
            self.process.start()
        theirs.close()
        try:
            return self.pipe.poll(max(seconds, 0.0)) and self.pipe.recv() == ("ready", None)
        except EOFError:
            raise UserError("the process that runs checks died while starting; see its message above.") from None

    def run(self, check: Check, limit: float | int) -> dict[str, Any]:
        """Run a check for at most ``limit`` seconds. Return its status, its seconds, an error, and what it found."""
        start, found = time.monotonic(), {}
        status, error = CUT, f"took more than its {limit:.0f} s"
        self.pipe.send(check)
        try:
            for kind, content in self._messages(start + limit):
                if kind == TOLD:
                    found |= content
                else:
                    status, error = kind, content
                    break
        except EOFError:
            self.process.join()
            status, error = BROKEN, f"its process died with exit code {self.process.exitcode}"
        if status in (CUT, BROKEN):
            self.end()
        status = FAILED if status == BROKEN else status
        return {"status": status, "seconds": time.monotonic() - start, "error": error, "found": found}

    def _messages(self, until: float) -> Iterator[tuple[str, Any]]:
        while (left := until - time.monotonic()) > 0 and self.pipe.poll(left):
            yield self.pipe.recv()

    def end(self) -> None:
        """End the process with all that it has started."""
        if self.process is not None:
            kill(self.process.pid)
            self.process.join()
            self.process = None
            self.pipe.close()


def serve(pipe: Connection, setting: Setting) -> None:
    """Run each check that comes through the pipe, in a process of its own."""
    depend_on_parent()
    keep_freed_memory()
    logging.disable(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - bars of trainings, until the process ends
    pipe.send(("ready", None))
    while True:
        check: Check = pipe.recv()
        torch.manual_seed(0)
        try:
            check.run(setting, lambda found: pipe.send((TOLD, found)))
            pipe.send((DONE, None))
        except UserError as error:
            pipe.send((FAILED, str(error)))
        except Exception as error:
            pipe.send((BROKEN, explain(error)))
