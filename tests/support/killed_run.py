"""A training that kills itself some updates after a checkpoint: `killed_run.py <folder> <save> <kill> [words]`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main(folder: str, save: str, kill: str, *words: str) -> None:
    from toy_runs import At, trained

    def die(training) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    trained(Path(folder), *words, at=[At(int(save), lambda t: t.checkpoints.save(t.trainer)), At(int(kill), die)])


if __name__ == "__main__":
    main(*sys.argv[1:])
