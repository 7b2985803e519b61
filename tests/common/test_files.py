"""What is written for people to read."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from worldmodels.common.figures import DPI, blank_figure
from worldmodels.common.files import Report, require_writable, write_json
from worldmodels.errors import UserError


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


def test_json_holds_no_number_that_json_does_not_know(tmp_path):
    content = {"a": float("nan"), "b": [1.5, -math.inf, {"c": (np.float64("inf"), 2)}], "d": "NaN", "e": None}
    write_json(tmp_path / "x.json", content)
    expected = {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN", "e": None}
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == expected


def test_json_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "x.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_a_folder_is_asked_before_work_begins(tmp_path):
    require_writable(tmp_path / "new" / "one")
    assert list((tmp_path / "new" / "one").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written \(.*\): say another folder with to=\.$"):
        require_writable(tmp_path / "file")
