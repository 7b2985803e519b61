"""What users are told has one form, whoever says it."""

from __future__ import annotations

import pytest
from messages import HOLE, complaint, messages

from worldmodels.errors import LONGEST_REASON, MISSING, OptionError, UserError, literal, reason, shown


def test_every_message_is_one_sentence():
    found = list(messages())
    assert len(found) > 100
    assert [f"{place} {complaint(text)}: {text}" for place, text in found if complaint(text)] == []


@pytest.mark.parametrize("message", ["no full stop", "two\nlines.", "x" * 301 + ".", f"ends with {HOLE}"])
def test_other_forms_are_noticed(message):
    assert complaint(message)


def test_facts_of_an_error():
    error = UserError("a=1 is wrong.", option="a", value=1, allowed=(2,))
    assert (str(error), error.option, error.value, error.allowed) == ("a=1 is wrong.", "a", 1, (2,))


def test_an_option_says_where_it_stands_once():
    error = OptionError("drop", 2, "must lie in (0, 1)", hint=" Did you mean 0.2?")
    assert str(error) == "drop=2 must lie in (0, 1). Did you mean 0.2?"
    assert error.inside("policy").with_path("planner").with_path("other").option == "planner.policy.drop"
    assert str(OptionError("task", MISSING, "must be given")) == "task must be given."


def test_long_values_are_cut():
    assert shown([1] * 100).endswith("…")
    assert (shown(None), shown(True), shown("a\nb")) == ("null", "true", "a b")


@pytest.mark.parametrize("text", ["a\nb\n" + "x" * 1000, "é" * 400 + ".", " ".join(["word"] * 300)])
def test_what_others_say_is_passed_on_shortened(text):
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        said = reason(error, placed=True)
    start, _, where = said.partition("…")
    assert start.startswith("RuntimeError: " + " ".join(text.split())[:100])
    assert where.startswith(" (test_errors.py, line ")
    assert len(start) <= len("RuntimeError: ") + LONGEST_REASON


@pytest.mark.parametrize("text", ["True", "false", "None", "0", "-1.5", "1e-3", "nan", "-inf"])
def test_a_text_that_looks_like_a_value_is_in_quotes(text):
    assert literal(text) == repr(text)
    assert f"a={text!r} must" in str(OptionError("a", text, "must be one"))


@pytest.mark.parametrize("value", ["yes", "1.2.x", "info", True, None, 0.5, [True]])
def test_any_other_value_is_as_a_command_line_has_it(value):
    assert literal(value) == shown(value)
