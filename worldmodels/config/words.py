"""Words on top of words: what a stored configuration was composed from, with others in their place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from worldmodels.common.arguments import convert, parse_list, parse_path
from worldmodels.config.aliases import bare
from worldmodels.config.compose import is_group

PATHS = ("data", "data.dataset", "resume", "run_dir", "world_model")
"""Words whose values are paths, which may hold any character."""


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
    return f"{key}={quote(str(value))}"


def quote(text: str) -> str:
    """Put a text between quotes as Hydra reads them, where backslashes count before a quote alone."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def path_word(key: str, text: str) -> str:
    """Write the word for a path, taken as it is but for ``~`` and ``null``."""
    return f"{key}=null" if text == "null" else quoted(key, convert(key, text, parse_path))


def dataset_word(text: str) -> str:
    """Write the word for a dataset, or several in brackets, by paths as they are or by other names.

    A path that exists is made absolute, so that the run finds it from any folder.
    """
    if text == "null" or not (text.startswith("[") and text.endswith("]")) or os.path.exists(text):
        return path_word("data.dataset", absolute(text))
    items = convert("data", text, parse_list)
    return f"data.dataset=[{','.join(quote(absolute(convert('data', item, parse_path))) for item in items)}]"


def absolute(path: str) -> str:
    """Return the absolute form of what exists; anything else, such as ``minari:<id>``, as it is."""
    path = os.path.expanduser(path)
    return os.path.abspath(path) if os.path.exists(path) else path


def readable(word: str) -> str:
    """Write a word about a path so that Hydra's own main can read it; one that it can sweep over stays."""
    try:
        OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        return quoted(bare(word), word.partition("=")[2]) if bare(word) in PATHS else word
    return word


def unquoted(word: str) -> str:
    """Return a word about a path as a command line has it, without what Hydra's own main needs or adds."""
    if bare(word) not in PATHS:
        return word
    value = OverridesParser.create().parse_overrides([word])[0].value()
    return f"{bare(word)}={value}" if isinstance(value, str) else word
