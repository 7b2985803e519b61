"""The form of what a user is told: one sentence, and at most a question after it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

PACKAGES = ("dynamics", "planners", "worldmodels")
HOLE = "\x00"


def text_of(node: ast.expr) -> str | None:
    """A message as written, with a hole for every value; None where it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else hole(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [text_of(node.left), text_of(node.right)]
        return "".join(part if part is not None else HOLE for part in parts)
    return None


def hole(part: ast.expr) -> str:
    """What stands for a value; one that `sentence` made has its end."""
    call = part.value if isinstance(part, ast.FormattedValue) else None
    return f"{HOLE}." if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "sentence" else HOLE


def messages() -> Iterator[tuple[str, str]]:
    """(place, message) of every error for users that the library can raise; reasons get their full stop."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    yield from _of_call(node, path)


def _of_call(node: ast.Call, path: Path) -> Iterator[tuple[str, str]]:
    place, name = f"{path.relative_to(ROOT)}:{node.lineno}", node.func.id
    position = {"UserError": 0, "NotLearned": 0, "require": 1, "OptionError": 2}.get(name)
    if position is None or len(node.args) <= position:
        return
    text = text_of(node.args[position])
    if text is not None and text != HOLE:
        yield place, f"{HOLE}={HOLE} {text}." if name == "OptionError" else text


def complaint(message: str) -> str:
    """What is wrong with a message's form, or nothing."""
    if "\n" in message:
        return "has more than one line"
    if not re.search(rf"[.?]{HOLE}?$", message):  # a hole at the end is a near match, which is a question
        return "does not end with a full stop or a question mark"
    plain = message.replace(HOLE, "")
    if "/" not in plain and len(plain) > 300:
        return f"has {len(plain)} characters"
    return ""
