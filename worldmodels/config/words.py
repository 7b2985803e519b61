"""Words on top of words: what a stored configuration was composed from, with others in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from worldmodels.config.aliases import bare
from worldmodels.config.compose import is_group


def place_of(group: str) -> str:
    """Return the key that a group's file fills: ``planner@prefill_planner`` fills ``prefill_planner``."""
    return group.partition("@")[2] or group


def merge(old: Iterable[str], new: Iterable[str], choices: Mapping[str, str | None]) -> list[str]:
    """Put new words on top of those that a configuration was composed from.

    Another file of a group takes the words about the one before away. The same file changes nothing.

    Args:
        old: words of the configuration.
        new: words that win over them.
        choices: the file chosen for each group.
    """
    merged = list(old)
    for word in sorted(new, key=is_group, reverse=True):  # a group first, then keys inside it
        key, value = bare(word), word.partition("=")[2]
        if is_group(word) and choices.get(key) == value:
            continue
        replaced = [*([key] if is_group(word) else []), place_of(key) if is_group(word) else key]
        gone = [other for other in merged if any(_is_about(other, name) for name in replaced)]
        merged = [other for other in merged if other not in gone]
        added = any(other.startswith("+") and bare(other) == key for other in gone)
        merged.append(f"+{word}" if added and not word.startswith(("+", "~")) else word)
    return merged


def _is_about(word: str, key: str) -> bool:
    return bare(word) == key or bare(word).startswith(f"{key}.")


def quoted(key: str, value: object) -> str:
    """Write a word whose value may hold any character, a path for example."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"
