"""Says whether this machine can train from pixels, and what to install if not: ``python scripts/doctor.py``."""

from __future__ import annotations

from worldmodels.doctor import main

if __name__ == "__main__":
    raise SystemExit(main())
