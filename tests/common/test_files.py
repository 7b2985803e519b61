"""What is written for people to read."""

from __future__ import annotations

import json

from worldmodels.common.figures import DPI, blank_figure
from worldmodels.common.files import Report


def test_a_report_is_three_files(tmp_path):
    report = Report(tmp_path, "two.dots", {"one": 1}, "text", blank_figure(2, 1.5), figure_name="other")
    report.write()
    assert {path.name for path in tmp_path.iterdir()} == {"two.dots.json", "two.dots.md", "other.png"}
    assert json.loads((tmp_path / "two.dots.json").read_text()) == {"one": 1}
    assert (tmp_path / "two.dots.md").read_text() == "text\n"
    width, height = (int.from_bytes((tmp_path / "other.png").read_bytes()[n : n + 4]) for n in (16, 20))
    assert (width, height) == (2 * DPI, 1.5 * DPI)


def test_a_report_without_a_figure_draws_none(tmp_path):
    Report(tmp_path, "empty", {}, "", None).write()
    assert {path.name for path in tmp_path.iterdir()} == {"empty.json", "empty.md"}
