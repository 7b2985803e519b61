"""What whoever started a process hears from it and asks of it: its log, and an orderly stop."""

from __future__ import annotations

import functools
import logging
import signal
import sys
from types import FrameType


class Interrupted(Exception):
    """The user pressed Ctrl-C and everything has been saved."""


def show_log() -> None:
    """Print what is logged, as every script does and every process that one starts."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for package in ("worldmodels", "dynamics", "planners"):  # others' advice does not concern who runs a script
        logging.getLogger(package).setLevel(logging.INFO)


@functools.cache
def tell_once(log: logging.Logger, text: str, level: int = logging.INFO) -> None:
    """Log a sentence the first time that this process has it to say."""
    log.log(level, "%s", text)


class CtrlC:
    """The first Ctrl-C asks for an orderly stop, the second ends the process at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.pressed:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self.pressed = True
        sys.stderr.write("\nstopping and saving; press Ctrl-C again to stop at once\n")
