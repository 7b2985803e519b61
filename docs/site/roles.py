"""Docstrings name things as Sphinx does (``:class:`State```): links to where they are documented, if they are."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|obj):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Turns each role into a link that is only code where its target is on no page."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda role: link(role[1], obj), obj.docstring.value)


def link(name: str, obj: griffe.Object) -> str:
    """Write an optional cross-reference: one that does not fail where no page documents its target."""
    head, _, rest = name.partition(".")
    try:
        target = obj.resolve(head) + (f".{rest}" if rest else "")
    except griffe.NameResolutionError:
        target = name
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'
