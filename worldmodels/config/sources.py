"""Where words may lead Hydra and OmegaConf: to yaml files in folders and to other keys, and never to code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from worldmodels.common.trust import trusted
from worldmodels.errors import UserError, shown

SEARCH = "hydra.searchpath"
"""Place of further files of groups. Hydra's own key, so that a run's words hold it as they do all else."""
RESOLVERS = ("hydra", "now", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "oc.select")
RESOLVERS += ("python_version", "version_base")
"""What interpolations may call unless the user trusts more. ``oc.env`` is none of it: the environment holds secrets.

Nor are ``oc.decode`` and ``oc.create``, which find interpolations in text that harmless parts were put together to.
"""


def require_harmless(words: Iterable[str]) -> None:
    """Refuse words for Hydra itself, which imports what it searches or launches, but for folders of yaml files."""
    for word in words:
        if "hydra" not in word.partition("=")[0]:
            continue
        override = OverridesParser.create().parse_overrides([word])[0]
        if override.key_or_group.split("/")[0].split(".")[0] != "hydra" and not override.package:
            continue
        if override.key_or_group != SEARCH or override.package:
            raise UserError(
                f"{word} is a word for Hydra's own flags, such as -m, and not for a configuration.",
                option=word,
            )
        folders = override.value()
        for folder in folders if isinstance(folders, list) else [folders]:
            if not str(folder).strip("'\"").startswith("file://"):
                raise UserError(
                    f"{SEARCH} may hold folders, as file:///home/me/configs, not {folder}, which would be imported.",
                    option=SEARCH,
                    value=str(folder),
                    allowed="file://",
                )


@contextmanager
def known_resolvers() -> Iterator[None]:
    """Let interpolations call nothing that is not known to be harmless, whatever this process has registered."""
    registered = BaseContainer._resolvers
    BaseContainer._resolvers = {name: registered[name] for name in (*RESOLVERS, *trusted()) if name in registered}
    try:
        yield
    finally:
        BaseContainer._resolvers = registered


def resolved(plain: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a configuration, of plain containers, with its interpolations resolved once and for all.

    Raises:
        UserError: one calls what is not known to be harmless, or what it stands for is an interpolation again.
        OmegaConfBaseException: one refers to nothing.
    """
    require_no_calls(plain, path)
    with known_resolvers():
        values = OmegaConf.to_container(OmegaConf.create(dict(plain)), resolve=True)
    for place, text in texts(values, path):
        if "${" in text:  # put together from parts, or escaped: whoever resolved it again would call it
            raise _refusal(place, text)
    return values


def require_no_calls(node: Any, path: str) -> None:
    """Refuse an interpolation that calls anything else, in plain containers or words, before it is resolved."""
    for place, text in texts(node, path):
        if "${" in text and "${" in _without_references(text):
            raise _refusal(place, text)


def texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text in plain containers, keys too, with its place."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from texts(key, path)
            yield from texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from texts(item, path)
    elif isinstance(node, str):
        yield path, node


def _refusal(place: str, text: str) -> UserError:
    return UserError(
        f"{place} holds {shown(text)}, which calls what no configuration may call: write what it stands for, or "
        "name the resolver in trust=[oc.env].",
        option=place,
        value=text,
        allowed=(*RESOLVERS, *trusted()),
    )


def _without_references(text: str) -> str:
    """Leave out interpolations of keys and of known resolvers, the innermost first."""
    known = "|".join(map(re.escape, (*RESOLVERS, *trusted())))
    while (less := re.sub(rf"\$\{{(?:[^{{}}:$]*|(?:{known}):[^{{}}$]*)\}}", "", text)) != text:
        text = less
    return text
