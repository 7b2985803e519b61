"""Write the tables of README and docs from `results/*.json`: `python docs/site/tables.py`; `--check` only compares.

A file of results holds `about`, what all its records share (`commit`, `machine`, `command`, `versions`), and `tables`,
lists of records by name: one a seed, or one a row of a benchmark. Units stand in the names of fields; what is not known
is null. A record with `baselines` has a `best_baseline` too. A page says which table it shows, and how:

    <!-- table quickstart/seeds
    seed = {seed}
    return = **{return:.1f}**[? ± {std:.1f}]
    15 ahead = {image_error[15]:.2f}
    -->
    (what stands here is written anew)
    <!-- end -->

The first line, which indented ones may continue, can in this order list tables below each other (`a/x & b/y`), add
fields of others (`a/x + b/y on seed`), choose records (`only what=rssm,mamba`, more than once), and gather those that
agree (`by what`): fields that differ become lists, or with `over delay` values by delay, `{recalled[50]}`. `on`, `by`
and `over` take several fields with commas between.

A field that a record lacks or that is null is shown as a dash, and `[?…]` around one is left out. A list is shown with
commas between. `{seconds:min:s}` writes 876 as 14:36, and `{stopped:*}` a star where `stopped` is true.
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
BLOCK = re.compile(r"(<!-- table (?P<source>[^\n]+(?:\n  [^\n]+)*)\n(?P<columns>.*?)-->\n).*?(<!-- end -->)", re.DOTALL)
CLAUSE = re.compile(r" (on|only|by|over) (\S+)")
OPTIONAL = re.compile(r"\[\?((?:\{[^}]*\}|[^\]{])*)\]")
DASH = "–"
Record = dict[str, Any]


class Cell(string.Formatter):
    """`str.format` for fields that may be missing, lists, times and marks."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        """Return a field of the record, or an entry of it; what is the same for all entries stands for each."""
        name, *keys = field_name.replace("]", "").split("[")
        value = kwargs.get(name)
        for key in keys:
            value = [_entry(item, key) for item in value] if isinstance(value, list) else _entry(value, key)
        return value, name

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format a value, or each of a list."""
        if isinstance(value, list):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        if value is None:
            return DASH
        if isinstance(value, bool):
            return format_spec if value else ""
        if format_spec == "min:s":
            return f"{round(value) // 60}:{round(value) % 60:02}"
        return format(value, "" if isinstance(value, str) else format_spec)

    def line(self, form: str, record: Record) -> str:
        """Fill in a cell, without what is optional and missing."""
        for optional in OPTIONAL.finditer(form):
            fields = [name for _, name, _, _ in self.parse(optional[1]) if name]
            known = all(self.get_field(name, (), record)[0] is not None for name in fields)
            form = form.replace(optional[0], optional[1] if known else "")
        return self.vformat(form, (), record)


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else value


def records(table: str, folder: Path) -> list[Record]:
    """Read ``<topic>/<table>``, each record with what its file says about all of them."""
    topic, _, name = table.strip().partition("/")
    held = json.loads((folder / f"{topic}.json").read_text())
    return [_with_best({**held["about"], **record}) for record in held["tables"][name]]


def _with_best(record: Record) -> Record:
    scores = [score for score in (record.get("baselines") or {}).values() if score is not None]
    return {**record, "best_baseline": max(scores)} if scores else record


def _key(record: Record, fields: str) -> tuple[Any, ...]:
    return tuple(record.get(field) for field in fields.split(","))


def joined(left: list[Record], right: list[Record], on: str) -> list[Record]:
    """Add to each record the fields of one that agrees with it in ``on``; if several do, it is there as often."""
    others: dict[tuple[Any, ...], list[Record]] = {}
    for record in right:
        others.setdefault(_key(record, on), []).append(record)
    return [{**other, **record} for record in left for other in others.get(_key(record, on), [{}])]


def gathered(rows: list[Record], by: str, over: str | None = None) -> list[Record]:
    """One record for each value of ``by``. Fields in which its records differ become lists, or values by ``over``."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(_key(row, by), []).append(row)
    found = []
    for group in groups.values():
        names = [", ".join(map(str, _key(row, over))) for row in group] if over else None
        keys = {key: None for row in group for key in row}
        found.append({key: _merged([row.get(key) for row in group], names) for key in keys})
    return found


def _merged(values: list[Any], names: list[str] | None) -> Any:
    if all(value == values[0] for value in values):
        return values[0]
    return dict(zip(names, values, strict=True)) if names else values


def selected(source: str, folder: Path) -> list[Record]:
    """Return the records that the first line of a block asks for."""
    source = " ".join(source.split())
    clauses = dict(CLAUSE.findall(source))
    first, *others = CLAUSE.sub("", source).split(" + ")
    rows = [record for table in first.split(" & ") for record in records(table, folder)]
    for other in others:
        rows = joined(rows, records(other, folder), clauses["on"])
    for field, _, values in (said.partition("=") for clause, said in CLAUSE.findall(source) if clause == "only"):
        rows = [row for row in rows if str(row.get(field)) in values.split(",")]
    return gathered(rows, clauses["by"], clauses.get("over")) if "by" in clauses else rows


def table(source: str, columns: Iterable[str], folder: Path) -> str:
    """Write one table. One without rows is refused, and a column of a field that no record has."""
    named = [column.partition(" = ") for column in columns if column.strip()]
    rows, cell = selected(source, folder), Cell()
    asked = {field.split("[")[0] for _, _, form in named for _, field, _, _ in cell.parse(form) if field}
    if missing := asked - {field for row in rows for field in row}:
        raise ValueError(f"table {source}: no record has {', '.join(sorted(missing))}")
    lines = [[name.strip() for name, _, _ in named], ["---"] * len(named)]
    lines += [[cell.line(form.strip(), row) for _, _, form in named] for row in rows]
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
