"""Write the tables of README and docs from `results/*.json`: `python docs/site/tables.py`; `--check` only compares.

A file of results holds `about`, what all its records share (`commit`, `machine`, `command`, `versions`), and `tables`,
lists of records by name: one a seed, or one a row of a benchmark. A page says which table it shows, and how:

    <!-- table quickstart/seeds
    seed = {seed}
    return = **{return:.1f}** ± {std:.1f}
    -->
    (what stands here is written anew)
    <!-- end -->

The first line may join tables (`backbones/pixels + backbones/cost on backbone`), gather records that agree in a field
into one (`by what`, fields that differ become lists) and choose some (`only what=rssm,mamba`). A field that a record
lacks or that is null is shown as a dash; a list with commas between.
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- table (?P<source>[^\n]+)\n(?P<columns>.*?)-->\n).*?(<!-- end -->)", re.DOTALL)
CLAUSE = re.compile(r" (on|by|only) (\S+)")
DASH = "–"
Record = dict[str, Any]


class Cell(string.Formatter):
    """`str.format` that shows what is missing as a dash, and lists with commas between."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return a field of the record, or None."""
        return kwargs.get(key)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format a value, or each of a list."""
        if isinstance(value, list):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        return DASH if value is None else format(value, "" if isinstance(value, str) else format_spec)


def records(table: str, folder: Path) -> list[Record]:
    """Read ``<topic>/<table>``, each record with what its file says about all of them."""
    topic, _, name = table.partition("/")
    found = json.loads((folder / f"{topic}.json").read_text())
    return [{**found["about"], **record} for record in found["tables"][name]]


def joined(left: list[Record], right: list[Record], on: str) -> list[Record]:
    """Add to each record the fields of the one that agrees with it in ``on``."""
    others = {record[on]: record for record in right}
    return [{**others.get(record[on], {}), **record} for record in left]


def gathered(rows: list[Record], by: str) -> list[Record]:
    """One record for each value of ``by``. Fields in which its records differ become lists."""
    groups: dict[Any, list[Record]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return [{key: _merged([row.get(key) for row in group]) for key in group[0]} for group in groups.values()]


def _merged(values: list[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else values


def selected(source: str, folder: Path) -> list[Record]:
    """Return the records that the first line of a block asks for."""
    clauses = dict(CLAUSE.findall(source))
    first, *others = CLAUSE.sub("", source).split(" + ")
    rows = records(first.strip(), folder)
    for other in others:
        rows = joined(rows, records(other.strip(), folder), clauses["on"])
    if "only" in clauses:
        key, _, values = clauses["only"].partition("=")
        rows = [row for row in rows if str(row.get(key)) in values.split(",")]
    return gathered(rows, clauses["by"]) if "by" in clauses else rows


def table(source: str, columns: Iterable[str], folder: Path) -> str:
    """Write one table."""
    named = [column.partition("=") for column in columns if column.strip()]
    cell = Cell()
    lines = [[name.strip() for name, _, _ in named], ["---"] * len(named)]
    lines += [[cell.format(form.strip(), **row) for _, _, form in named] for row in selected(source, folder)]
    return "".join(
        "| " + " | ".join(line) + " |\n" if line[0] != "---" else "|---" * len(line) + "|\n" for line in lines
    )


def rewritten(text: str, folder: Path) -> str:
    """Return a page with every table as the results have it now."""
    return BLOCK.sub(
        lambda block: block[1] + "\n" + table(block["source"], block["columns"].splitlines(), folder) + "\n" + block[4],
        text,
    )


def pages(root: Path) -> list[Path]:
    """List what may show tables."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def main(words: list[str]) -> int:
    """Rewrite the pages, or name those that are not as the results are."""
    stale = [page for page in pages(ROOT) if rewritten(page.read_text(), ROOT / "results") != page.read_text()]
    for page in stale:
        if "--check" not in words:
            page.write_text(rewritten(page.read_text(), ROOT / "results"))
        sys.stdout.write(f"{page.relative_to(ROOT)}\n")
    return int(bool(stale) and "--check" in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
