"""Which code this is, for whoever reads a run folder years later."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def code_version() -> str:
    """Name the commit of the checkout that runs, or else the installed version; an empty string where neither is known.

    ``-dirty`` at its end says that files differed from the commit.
    """
    if (ROOT / ".git").exists():  # no repository that the packages merely lie in
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return f"commit {answer.stdout.strip()}"
        except (OSError, subprocess.SubprocessError):
            pass  # no git here, or one that may not read
    try:
        return f"version {metadata.version('worldmodels')}"
    except metadata.PackageNotFoundError:
        return ""
