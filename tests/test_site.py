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
        ("[the\ncore](../core.py)", "the\ncore (`core.py`)"),
        ("[page](page.md#part) [web](https://example.org) ![picture](../core.py)", None),
        ("```md\n[x](../missing.py)\n```", None),
    ],
)
def test_links_out_of_the_docs_become_paths(docs: Path, said: str, written: str | None) -> None:
    assert hooks.without_outer_links(said, docs / "page.md", docs, docs.parent) == (written or said)


@pytest.mark.parametrize("target", ["../missing.py", "../../outside.py"])
def test_a_link_to_no_file_of_the_repository_fails(docs: Path, target: str) -> None:
    (docs.parents[1] / "outside.py").touch()
    with pytest.raises(FileNotFoundError, match=target):
        hooks.without_outer_links(f"[x]({target})", docs / "page.md", docs, docs.parent)


def test_every_link_out_of_our_docs_has_its_file() -> None:
    docs = ROOT / "docs"
    pages = {page: page.read_text() for page in docs.rglob("*.md")}
    changed = [page for page, text in pages.items() if hooks.without_outer_links(text, page, docs) != text]
    assert docs / "backbones.md" in changed


def test_pages_of_a_folder_come_as_its_index_names_them(docs: Path) -> None:
    folder = docs / "parts"
    folder.mkdir()
    assert hooks.pages_of(folder, docs) == []
    for name in ("a", "b", "c"):
        (folder / f"{name}.md").touch()
    (folder / "index.md").write_text("[c](c.md), [b](b.md) and [c again](c.md)")
    assert hooks.pages_of(folder, docs) == [f"parts/{name}.md" for name in ("index", "c", "b", "a")]
