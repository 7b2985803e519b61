"""Say whether this machine can train from pixels, and what to install if not: `python scripts/doctor.py`."""

from __future__ import annotations

WORDS = {}


def main(words: list[str]) -> int:
    """Print what was found; return 0 if all is well, 1 with what to install if not."""
    from worldmodels.envs.doctor import main as examine
    from worldmodels.errors import UserError

    if words:
        raise UserError(f"doctor.py takes no words, and {words[0]!r} is one: leave it out.")

    return examine()
