"""Mistakes a user can mend: one sentence saying what is wrong and what to do, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake; the command line prints its one sentence and exits with status 1."""


def near_match(word: object, known: Iterable[str]) -> str:
    """The most similar of ``known`` as a question to append to an error, or an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def require(met: bool, message: str) -> None:
    """Raise :class:`UserError` unless ``met``."""
    if not met:
        raise UserError(message)
