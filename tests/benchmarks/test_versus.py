"""`suite=versus`: commands in turns, what counts as their time, and what is no answer."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from worldmodels.benchmarks import versus

pytestmark = pytest.mark.process


def python(code: str) -> str:
    """A command that runs some Python."""
    return shlex.join([sys.executable, "-c", code])


def says(seconds: object) -> str:
    return python(f"import json; print('hello'); print(json.dumps({{'seconds': {seconds!r}}}))")


def test_two_commands_take_turns(tmp_path):
    to, notes = tmp_path / "versus.json", tmp_path / "notes"

    def noted(name: str, seconds: float) -> str:
        return python(f"open({str(notes)!r}, 'a').write('{name}'); print('{{\"seconds\": {seconds}}}')")

    versus.measure([], other=noted("B", 0.5), ours=noted("A", 0.25), repeats=3, to=str(to))
    result = json.loads(to.read_text())
    assert notes.read_text() == "ABABAB"
    assert result["median_seconds"] == {"ours": 0.25, "other": 0.5}
    assert result["ratios"] == [2.0] * 3
    assert (result["median_ratio"], result["range"]) == (2.0, [2.0, 2.0])
    assert result["machine"]["threads"] >= 1


def test_ratios_are_of_the_same_turn():
    found = versus.compared({"ours": [1.0, 2.0, 4.0], "other": [3.0, 4.0, 20.0]})
    assert found["ratios"] == [3.0, 2.0, 5.0]
    assert (found["median_ratio"], found["range"]) == (3.0, [2.0, 5.0])
    assert found["median_seconds"] == {"ours": 2.0, "other": 4.0}
    assert versus.table(found).splitlines()[-1].split()[1:4] == ["2.0000", "4.0000", "3.00"]


def test_a_command_without_a_word_is_timed_from_outside():
    silent = versus.words_of("other", python("sum(range(10**6))"))
    assert 0.005 < versus.seconds_of("other", silent, 1) < 60


def test_both_get_the_same_number_of_threads(tmp_path):
    tell = python("import json, os; print(json.dumps({'seconds': int(os.environ['OMP_NUM_THREADS'])}))")
    result = versus.measure([], other=tell, ours=tell, repeats=1, threads=3, to=str(tmp_path / "x.json"))
    assert result["seconds"] == {"ours": [3.0], "other": [3.0]}


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("", 'suite=versus compares with another command: say other="<command>".'),
        ("   ", "other= is empty: give it a command."),
        ("python 'x", "other=python 'x is no command (No closing quotation)."),
        (
            "no_such_program --fast",
            "other: no_such_program cannot be run (No such file or directory): is it installed?",
        ),
        (python("import sys; sys.exit('out of luck')"), "exited with 1: out of luck."),
        (python("import sys; sys.exit(3)"), "exited with 3: it said nothing."),
        (python("import os; os.kill(os.getpid(), 9)"), "was ended by signal 9: it said nothing."),
        (python("print('done')"), "its last line must be a JSON object such as"),
        (python("print('3.5')"), "its last line must be a JSON object such as"),
        (says("fast"), "its last line must be a JSON object such as"),
        (says(True), "its last line must be a JSON object such as"),
        (says(-1.0), "its last line must be a JSON object such as"),
        (python("print('{\"seconds\": NaN}')"), "its last line must be a JSON object such as"),
    ],
)
def test_what_is_no_answer_is_one_sentence(said, tmp_path, command, sentence):
    words = ("suite=versus", f"other={command}", f"ours={says(1.0)}", "repeats=1", f"to={tmp_path / 'x.json'}")
    message = said.refusal("benchmark", *words)
    assert sentence in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ours=true", "seed=1"], "seed=1 has no effect beside ours=: put it into that command."),
        (["ours=true", "part=planning step"], "part=planning step has no effect beside ours="),
        (["part=updates"], "part=updates is not one of update, planning step. Did you mean 'update'?"),
        (["lengths=3"], "suite=versus has no option lengths=."),
    ],
)
def test_words_that_say_nothing_are_refused(said, words, sentence):
    assert said.refusal("benchmark", "suite=versus", "other=true", *words).startswith(sentence)


@pytest.mark.heavy
def test_ours_is_the_training_suite(tmp_path):
    words = ["env=counter", "dynamics=implicit", "planner=random", "size=xxs", "data.length=8", "data.batch_size=2"]
    result = versus.measure(words, other=says(1000.0), repeats=1, to=str(tmp_path / "x.json"))
    assert 0 < result["seconds"]["ours"][0] < 100
    assert result["ours"] == "suite=training, update"
