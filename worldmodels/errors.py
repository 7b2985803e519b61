"""Mistakes a user can mend: one sentence saying what is wrong and what to do, never a traceback."""

from __future__ import annotations

import difflib
import errno
import os
import re
import traceback
from collections.abc import Iterable
from typing import Any

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "missing", "__reduce__": lambda self: "MISSING"})()
"""The value of an option that was not given."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of an OSError when a disk, or a user's share of it, is full."""
LONGEST = 80
"""Characters of a value that a message shows."""
LONGEST_REASON = 150
"""Characters of another program's message that one of ours passes on."""
LOOKALIKE = re.compile(r"(true|false|null|none|nan|[-+]?(inf|[\d_.]+(e[-+]?\d+)?))", re.IGNORECASE)
"""Texts that look like a value of another type."""


class UserError(Exception):
    """A user's mistake. The command line prints its one sentence and exits with status 1.

    Args:
        message: what is wrong, what is allowed, what to do; ends with a full stop or a question.
        option: the option or key that is wrong, where it is one.
        value: what it was given.
        allowed: what it may be.
    """

    def __init__(self, message: str, *, option: str | None = None, value: Any = None, allowed: Any = None) -> None:
        super().__init__(message)
        self.option, self.value, self.allowed = option, value, allowed


class OptionError(UserError):
    """A wrong option, raised by a class that knows its own argument names and not where a configuration has them.

    The message is ``<path>.<option>=<value> <reason>.`` Whoever builds from a configuration adds the path.

    Args:
        option: the argument's name.
        value: what it was given; :data:`MISSING` where it was not.
        reason: what is wrong or allowed, as ``must lie in (0, 1)``; no full stop.
        allowed: what it may be.
        hint: a further question, from :func:`near_match`.
    """

    def __init__(self, option: str, value: Any, reason: str, *, allowed: Any = None, hint: str = "") -> None:
        super().__init__(reason, option=option, value=value, allowed=allowed)
        self.args = (option, value, reason)
        self.reason, self.hint, self.located = reason, hint, False

    def __str__(self) -> str:
        given = "" if self.value is MISSING else f"={literal(self.value)}"
        return f"{self.option}{given} {self.reason}.{self.hint}"

    def with_path(self, path: str) -> OptionError:
        """Say where in a configuration the option stands. The first to know the whole path is right."""
        if path and not self.located:
            self.option, self.located = f"{path}.{self.option}", True
        return self

    def inside(self, option: str) -> OptionError:
        """Say which option of one's own holds the wrong one, as ``policy`` does ``min_std``."""
        if not self.located:
            self.option = f"{option}.{self.option}"
        return self


def shown(value: object) -> str:
    """Write a value as a command line has it, in one line and cut where it is long."""
    plain = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) for item in value)}]"
    else:
        text = plain[value] if value is None or isinstance(value, bool) else " ".join(str(value).split())
    return cut(text, LONGEST)


def literal(value: object) -> str:
    """Write a value as :func:`shown` does, but a text that looks like a number or a truth in quotes."""
    return repr(value) if isinstance(value, str) and LOOKALIKE.fullmatch(value) else shown(value)


def cut(text: str, length: int) -> str:
    """Shorten a text, and show that it was longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def brief(text: object) -> str:
    """Write another program's message, an exception for example, in one short line without a full stop."""
    return cut(" ".join(str(text).split()).rstrip("."), LONGEST_REASON)


def sentence(text: object) -> str:
    """Write a text, another program's reason for example, in one line that ends as a sentence does."""
    line = " ".join(str(text).split())
    return line if line.endswith((".", "?")) else f"{line}."


def reason(error: BaseException, placed: bool = False) -> str:
    """Write an exception that is nobody's sentence as one short line without a full stop: its type, text and place.

    The place is told where that is asked for, or where there is no text, as of a bare ``assert``.
    """
    text = brief(error)
    where = place(error) if placed or not text else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def place(error: BaseException) -> str:
    """Return file and line in which an exception arose, in brackets behind a space, or nothing if nobody knows."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def near_match(word: object, known: Iterable[str]) -> str:
    """The most similar of ``known`` as a question to append to an error, or an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def require(met: bool, message: str) -> None:
    """Raise :class:`UserError` unless ``met``."""
    if not met:
        raise UserError(message)
