"""What the site does with links that lead out of it, and with folders of the menu; `make docs` holds the rest."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from places import ROOT

spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site" / "hooks.py")
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder `docs` beside one file."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "core.py").touch()
    return tmp_path / "docs"


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("the [core.py](../core.py).", "the `core.py`."),
        ("[`core.py`](../core.py#L3)", "`core.py`"),
        ("| [file](../core.py) |", "| `core.py` |"),
        ("[the\ncore](../core.py)", "the\ncore (`core.py`)"),
        ("[page](page.md#part) [web](https://example.org) ![picture](../core.py)", None),
        ("```md\n[x](../missing.py)\n```", None),
    ],
)
def test_links_out_of_the_docs_become_paths(docs: Path, said: str, written: str | None) -> None:
    assert hooks.without_outer_links(said, docs / "page.md", docs, docs.parent) == (written or said)


@pytest.mark.parametrize("target", ["../missing.py", "../../outside.py", "/core.py"])
def test_a_link_to_no_file_is_left_for_mkdocs_to_refuse(docs: Path, target: str) -> None:
    (docs.parents[1] / "outside.py").touch()
    link = f"[x]({target})"
    assert hooks.without_outer_links(link, docs / "page.md", docs, docs.parent) == link


def test_no_page_of_ours_keeps_a_link_out_of_the_docs() -> None:
    docs = ROOT / "docs"
    mended = {page: hooks.without_outer_links(page.read_text(), page, docs) for page in docs.rglob("*.md")}
    links = [(page, link[2]) for page, text in mended.items() for link in hooks.LINK.finditer(text)]
    inside = [(page, target) for page, target in links if ":" not in target]
    assert len(inside) > 100
    assert [(page.name, target) for page, target in inside if not (page.parent / target).exists()] == []


def test_pages_of_a_folder_come_as_its_index_names_them(docs: Path) -> None:
    folder = docs / "parts"
    folder.mkdir()
    assert hooks.pages_of(folder, docs) == []
    for name in ("a", "b", "c"):
        (folder / f"{name}.md").touch()
    (folder / "index.md").write_text("[c](c.md), [b](b.md) and [c again](c.md)")
    assert hooks.pages_of(folder, docs) == [f"parts/{name}.md" for name in ("index", "c", "b", "a")]
