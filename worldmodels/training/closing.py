"""What a training tells when it ends: where the time went, and how to go on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from worldmodels.common.arguments import shell_word


def shown_path(program: str) -> str:
    """Return a program as this environment's user can call it."""
    beside = Path(sys.executable).with_name(program)
    return os.path.relpath(beside) if beside.exists() else program


def how_to_go_on(folder: Path) -> str:
    """The commands that an interrupted run leaves to its user."""
    return (
        f"continue with\n  python scripts/train.py {shell_word('resume', folder)}\nor score it as it is:\n"
        f"  python scripts/evaluate.py {shell_word('run', folder)}   writes evaluation.json\n"
        f"  python scripts/imagine.py {shell_word('run', folder)}    writes imagine.json"
    )


def time_table(seconds: dict[str, float]) -> str:
    """Format where the time went, of which ``total`` is all."""
    total = seconds["total"]
    rows = sorted((item for item in seconds.items() if item[0] != "total"), key=lambda item: -item[1])
    rows += [("other", 2 * total - sum(seconds.values())), ("total", total)]
    return "\n".join(f"{name:<24}{value:>8.1f} s{100 * value / total:>6.1f} %" for name, value in rows)
