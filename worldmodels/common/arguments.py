"""The ``key=value`` words that a command takes for itself, converted and checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worldmodels.errors import UserError


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
        try:
            own[key] = known[key](value)
        except ValueError:
            raise UserError(f"{key}={value} must be {EXPECTED[known[key]]}.") from None
    for key in required:
        if key not in own:
            raise UserError(f"say which {key}: {key}=<…>; this script takes {', '.join(f'{k}=' for k in known)}.")
    return own, rest


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


def parse_counts(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between."""
    return [parse_count(part) for part in text.split(",")]


def parse_names(text: str) -> list[str]:
    """Words with commas between."""
    return text.split(",")


def parse_list(text: str) -> list[str]:
    """Read the items between commas, with or without brackets around all of it. Items may hold spaces."""
    inner = text.strip().removeprefix("[").removesuffix("]")
    found = [part.strip().strip("'\"") for part in inner.split(",")]
    if not all(found):
        raise ValueError(text)
    return found


def parse_bool(text: str) -> bool:
    """Read true or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


EXPECTED = {
    parse_list: "a list such as [one,two]",
    parse_bool: "true or false",
    parse_whole: "a whole number of at least 0",
    parse_count: "a whole number of at least 1",
    parse_counts: "whole numbers of at least 1 with commas between",
}
