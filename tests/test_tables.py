"""The tables of README and docs are what `results/` holds; `docs/site/tables.py` writes them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from places import ROOT

spec = importlib.util.spec_from_file_location("site_tables", ROOT / "docs" / "site" / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

PROVENANCE = {"command", "commit", "machine", "versions"}
"""What every record must say of how it came about."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results about two things, two seeds of one."""
    one = [
        {
            "what": "rssm",
            "seed": 0,
            "return": 405.52,
            "std": 4.0,
            "episodes": [400, 411],
            "baselines": {"a": 1, "b": 2},
        },
        {"what": "rssm", "seed": 1, "return": 470.7, "seconds": 876, "error": {"15": 0.7}},
        {"what": "mamba", "seed": 0, "return": 314.4, "stopped": True},
    ]
    other = [{"what": "rssm", "ms": 1543.2}, {"what": "rssm", "ms": 7}]
    about = {"commit": "abc", "return": 1.0}
    (tmp_path / "first.json").write_text(json.dumps({"about": about, "tables": {"seeds": one, "cost": other}}))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "column", "cells"),
    [
        ("first/seeds", "{return:.1f}", ["405.5", "470.7", "314.4"]),
        ("first/seeds", "{commit} {episodes:.1f}", ["abc 400.0, 411.0", "abc –", "abc –"]),
        ("first/seeds only seed=0", "`{what}`", ["`rssm`", "`mamba`"]),
        ("first/seeds by what", "{seed}: {return:.0f}", ["0, 1: 406, 471", "0: 314"]),
        ("first/seeds + first/cost on what by what,seed", "{ms:,.0f}", ["1,543, 7", "1,543, 7", "–"]),
        ("first/seeds by what over seed", "{return[1]:.0f} {std[0]}", ["471 4.0", "314 –"]),
        ("first/seeds & first/cost only what=rssm only commit=abc", "{ms:.0f}", ["–", "–", "1543", "7"]),
        ("first/seeds", "{return:.0f}[? ± {std:.0f}] [?({error[15]:.1f})]", ["406 ± 4", "471 (0.7)", "314"]),
        ("first/seeds\n  & first/cost\n  by what", "{error[15]}", ["–, 0.7, –, –", "–"]),
        ("first/seeds", "{seconds:min:s}{stopped:*}", ["––", "14:36–", "–*"]),
        ("first/seeds", "{best_baseline} {baselines[a]}", ["2 1", "– –", "– –"]),
    ],
)
def test_a_block_shows_what_the_results_hold(results, source, column, cells):
    page = f"before\n<!-- table {source}\nname=x = {column}\n-->\nold\n<!-- end -->\nafter\n"
    written = tables.rewritten(page, results)
    rows = [line.strip("| ") for line in written.splitlines() if line.startswith("|")]
    assert rows == ["name=x", "---", *cells]
    assert written.startswith("before\n<!-- table ")
    assert written.endswith("<!-- end -->\nafter\n")
    assert "old" not in written
    assert tables.rewritten(written, results) == written


@pytest.mark.parametrize("source", ["first/cost", "first/seeds only what=rsm"])
def test_a_block_of_what_no_record_has_is_refused(results, source):
    with pytest.raises(ValueError, match="no record has return_of_none, std"):
        tables.table(source, ["a = {std[1]:.1f}", "b = {return_of_none}"], results)


def test_pages_are_as_the_results_have_them():
    """Else run `python docs/site/tables.py`."""
    pages = tables.pages(ROOT)
    shown = [page for page in pages if "<!-- table " in page.read_text()]
    assert len(shown) > 3
    assert [
        page.name for page in pages if tables.rewritten(page.read_text(), ROOT / "results") != page.read_text()
    ] == []


def test_every_record_says_how_it_came_about():
    files = sorted((ROOT / "results").glob("*.json"))
    assert files
    for file in files:
        held = json.loads(file.read_text())
        for name in held["tables"]:
            for record in tables.records(f"{file.stem}/{name}", file.parent):
                assert record.keys() >= PROVENANCE, f"{file.stem}/{name}"


def test_every_table_of_results_is_shown():
    text = "".join(page.read_text() for page in tables.pages(ROOT))
    held = [
        f"{file.stem}/{name}"
        for file in (ROOT / "results").glob("*.json")
        for name in json.loads(file.read_text())["tables"]
    ]
    assert [table for table in held if table not in text] == []
