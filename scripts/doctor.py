"""Says whether this machine can train from pixels, and what to install if not: ``python scripts/doctor.py``."""

from __future__ import annotations

import sys


def main() -> int:
    """Print what was found. Return 0 if all is well, 1 with what to install if not."""
    if {"--help", "-h"}.intersection(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n")
        return 0
    try:
        from worldmodels.doctor import main as examine

        return examine()
    except ModuleNotFoundError as error:
        sys.stderr.write(f"The Python package {error.name} is missing: run `make setup`, or install it with pip.\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
