"""Words that commands take for themselves."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from messages import HOLE, PACKAGES, text_of
from places import ROOT

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


UNQUOTED = re.compile(rf"\b(resume|run|world_model|run_dir)={HOLE}|--\w+ ({HOLE}|%s)|download {HOLE}")


def test_every_command_that_is_advised_is_quoted():
    """A path may hold spaces and brackets: `shell_word` or `shlex` writes it."""
    for code in ('f"goes on with resume={folder}"', '"tensorboard --logdir %s"', 'f"run={a} planner={b}"'):
        assert UNQUOTED.search(text_of(ast.parse(code, mode="eval").body)), code
    found = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = text_of(node) if isinstance(node, ast.expr) else None
            if text and UNQUOTED.search(text) and "shlex" not in ast.unparse(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {text}")
    assert found == []
