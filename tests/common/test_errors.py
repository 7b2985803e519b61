"""What users are told has one form, whoever says it."""

from __future__ import annotations

import pytest
from messages import HOLE, complaint, messages

from worldmodels.errors import MISSING, OptionError, UserError, shown


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
