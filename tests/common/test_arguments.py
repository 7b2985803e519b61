"""Words that commands take for themselves."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from worldmodels.common.arguments import convert, parse_list, parse_path, parse_paths, shell_word
from worldmodels.errors import UserError


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a", ["a"]),
        ("[a, b c]", ["a", "b c"]),
        ("'a,b',\"c\"", ["a,b", "c"]),
        ("[it's,rock']", ["it's", "rock'"]),
        ("[a]b", ["[a]b"]),
    ],
)
def test_lists_are_items_between_commas(text, items):
    assert parse_list(text) == items


@pytest.mark.parametrize("text", ["", "[]", "a,", ",a", "a,,b"])
def test_a_list_has_no_empty_item(text):
    with pytest.raises(UserError, match=r"must be a list such as \[one,two\]"):
        convert("runs", text, parse_list)


def test_paths_are_as_they_are_but_for_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a,b]").mkdir()
    assert parse_path("~/x=(1)") == str(tmp_path / "x=(1)")
    assert parse_paths("[a,b]") == ["[a,b]"], "a folder of that name"
    assert parse_paths("[c,~]") == ["c", str(tmp_path)]


@pytest.mark.parametrize("text", ["", "a" * 300, "runs/" + "é" * 128, "\udcff"])
def test_a_path_that_no_disk_holds_is_one_short_sentence(text):
    with pytest.raises(UserError, match=r"to=.* must be a path") as caught:
        convert("to", text, parse_path)
    assert len(str(caught.value)) < 200


def test_commands_that_are_advised_can_be_pasted():
    assert shlex.split(f"x {shell_word('run', Path('a b/it s'))}") == ["x", "run=a b/it s"]
    assert shell_word("run", "runs/a") == "run=runs/a"
