"""The ``key=value`` words that a command takes for itself, converted and checked."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from worldmodels.errors import UserError, shown

LONGEST_NAME = 255
"""Bytes in the name of a file or a folder, on any disk that people use."""


class Word(NamedTuple):
    """A word that a command takes for itself."""

    parse: Callable[[str], Any]
    help: str


def parsers(words: Mapping[str, Word]) -> dict[str, Callable[[str], Any]]:
    """Return how the value of each word is read."""
    return {key: word.parse for key, word in words.items()}


def listed(words: Mapping[str, Word]) -> str:
    """List words with a line each, as ``--help`` prints them."""
    lines = [f"  {key + '=':<15} {word.help}" for key, word in words.items()]
    return "\n".join(["words:", *lines])


def split_arguments(
    words: list[str], known: dict[str, Callable[[str], Any]], required: tuple[str, ...]
) -> tuple[dict, list[str]]:
    """Split ``key=value`` words into a script's own, converted, and the overrides that are left."""
    own, rest = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            rest.append(word)
            continue
        own[key] = convert(key, value, known[key])
    for key in required:
        if key not in own:
            raise UserError(f"say which {key}: {key}=<…>; this script takes {', '.join(f'{k}=' for k in known)}.")
    return own, rest


def convert(key: str, text: str, parse: Callable[[str], Any]) -> Any:
    """Convert the value of a word, or refuse it."""
    try:
        return parse(text)
    except ValueError:
        raise UserError(f"{key}={shown(text)} must be {EXPECTED[parse]}.", option=key, value=text) from None


def shell_word(key: str, value: object) -> str:
    """Write a word as a shell takes it, whatever its value holds."""
    return shlex.quote(f"{key}={value}")


def parse_whole(text: str) -> int:
    """Read a whole number of at least 0. 1e5 is one."""
    if float(text) < 0 or not float(text).is_integer():
        raise ValueError(text)
    return int(float(text))


def parse_count(text: str) -> int:
    """A whole number of at least 1."""
    if parse_whole(text) < 1:
        raise ValueError(text)
    return parse_whole(text)


def parse_positive(text: str) -> float:
    """Read a number above 0."""
    if not 0 < float(text) < math.inf:
        raise ValueError(text)
    return float(text)


def parse_counts(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between."""
    return [parse_count(part) for part in text.split(",")]


def parse_names(text: str) -> list[str]:
    """Words with commas between."""
    return text.split(",")


ITEM = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]*?))\s*(?:,|$)""")
"""An item of a list, which may stand in quotes, and the comma behind it."""


def parse_list(text: str) -> list[str]:
    """Read the items between commas, with or without brackets around all of it. Items may hold spaces."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
    found = [next(filter(None, match.groups()), "") for match in ITEM.finditer(inner) if match.start() < len(inner)]
    if not found or not all(found) or inner.endswith(","):
        raise ValueError(text)
    return found


def parse_path(text: str) -> str:
    """Read a path as it is, but for ``~``, which a shell leaves where it does not stand alone."""
    path = os.path.expanduser(text)
    if not path or any(
        len(name.encode()) > LONGEST_NAME for name in path.split(os.sep)
    ):  # text that is none raises too
        raise ValueError(text)
    return path


def parse_paths(text: str) -> list[str]:
    """Read one path, or several between commas."""
    return [parse_path(text)] if os.path.exists(text) else [parse_path(item) for item in parse_list(text)]


def parse_bool(text: str) -> bool:
    """Read true or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


EXPECTED = {
    str: "a text",
    parse_path: f"a path of names with at most {LONGEST_NAME} bytes each",
    parse_paths: f"a path or a list of paths, of names with at most {LONGEST_NAME} bytes each",
    parse_list: "a list such as [one,two]",
    parse_bool: "true or false",
    parse_whole: "a whole number of at least 0",
    parse_positive: "a number above 0",
    parse_count: "a whole number of at least 1",
    parse_counts: "whole numbers of at least 1 with commas between",
}
