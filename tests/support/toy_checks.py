"""Checks that end in every way that a check can, for the tests of what runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from worldmodels.benchmarks.check_runner import Check, Setting, Tell
from worldmodels.errors import UserError


def quick(setting: Setting, tell: Tell) -> None:
    tell({"pid": os.getpid()})
    tell({"small": setting.small})


def endless(setting: Setting, tell: Tell) -> None:
    """Never ends, nor does the process that it starts."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell({"child": child.pid})
    while True:
        time.sleep(1)


def chatters(setting: Setting, tell: Tell) -> None:
    """Never ends, nor stops telling."""
    while True:
        tell({"told": time.monotonic()})


def disagrees(setting: Setting, tell: Tell) -> None:
    tell({"apart": 2.0})
    raise UserError("one and two are 1 apart.")


def breaks(setting: Setting, tell: Tell) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def dies(setting: Setting, tell: Tell) -> None:
    tell({"last": "words"})
    sys.stderr.flush()
    os._exit(3)


def leaves_a_mark(setting: Setting, tell: Tell) -> None:
    """Writes down that it ran, into the folder that a variable names."""
    with (Path(os.environ["MARKS"]) / "marks").open("a") as file:
        file.write("x")


CHECKS = {
    name: Check(f"toy: {name}", run, seconds)
    for name, run, seconds in (
        ("quick", quick, 60.0),
        ("endless", endless, 3.0),
        ("chatters", chatters, 1.0),
        ("disagrees", disagrees, 60.0),
        ("breaks", breaks, 60.0),
        ("dies", dies, 60.0),
        ("marks", leaves_a_mark, 60.0),
    )
}
