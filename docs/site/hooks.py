"""What mkdocs does beside building: files of the repository become code, folders of the menu their pages.

On GitHub a page may link to any file of the repository. The site holds pages alone, so that such a link is written as
the file's path. Where there is no such file the link stays, and a strict build fails on it as on any dead link.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]\n]*(?:\n[^\]\n]+)?)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)


def without_outer_links(text: str, page: Path, docs: Path, root: Path = ROOT) -> str:
    """Write links that lead out of ``docs`` to a file of the repository as that file's path."""

    def mend(link: re.Match) -> str:
        words, target = link[1], link[2]
        path = (page.parent / target).resolve()
        if ":" in target or path.is_relative_to(docs) or not path.is_relative_to(root) or not path.exists():
            return link[0]
        name = path.relative_to(root).as_posix()
        return f"`{name}`" if words == "file" or name.endswith(words.strip("`")) else f"{words} (`{name}`)"

    parts = FENCE.split(text)  # code is left as it is
    return "".join(part if index % 2 else LINK.sub(mend, part) for index, part in enumerate(parts))


def pages_of(folder: Path, docs: Path) -> list[str]:
    """Pages of a folder: its index first, the others in the order in which the index links to them, then by name."""
    pages = sorted(folder.glob("*.md"))
    index = folder / "index.md"
    order = [link[2] for link in LINK.finditer(index.read_text())] if index in pages else []
    places = {name: place for place, name in reversed(list(enumerate(order)))}
    pages.sort(key=lambda page: (page != index, places.get(page.name, len(order))))
    return [page.relative_to(docs).as_posix() for page in pages]


def on_config(config: Any) -> None:
    """Fill in what the menu names as a folder, and leave out a folder that has no pages."""
    docs = Path(config.docs_dir)
    menu = []
    for entry in config.nav:
        [(title, value)] = entry.items()
        if isinstance(value, str) and value.endswith("/"):
            value = pages_of(docs / value, docs)
        if value:
            menu.append({title: value})
    config.nav = menu


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Write links to files of the repository as their paths."""
    return without_outer_links(markdown, Path(page.file.abs_src_path), Path(config.docs_dir))
