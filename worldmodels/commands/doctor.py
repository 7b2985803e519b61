"""Say whether this machine can train from pixels, and what to install if not: `python scripts/doctor.py`."""

from __future__ import annotations


def main(words: list[str]) -> int:
    """Print what was found; return 0 if all is well, 1 with what to install if not."""
    from worldmodels.envs.doctor import main as examine

    return examine()
