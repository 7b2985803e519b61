"""Time what a training is made of, or what backbones cost: `python scripts/benchmark.py [suite=backbones] [size=xs]`.

Prints medians and writes a JSON (`to=`). Takes the overrides of `train.py`, so that two configurations can be compared
in one run each, and `repeats=`. `suite=backbones` also takes `lengths=64,1024`, `only=ssm,rssm`, `parameters=1e6` and
`batch=4`, and writes a table and a figure beside the JSON. `suite=planning` times a decision of every planner at
TD-MPC2's sizes: `only=tdmpc,mppi`, `envs=1,16`. `suite=launches` counts the operators of an update, a plan and a frame
of every preset, backbone and planner, and how often the host waits: `only=dreamerv3,tdmpc2`. `suite=loop` trains for
`repeats=` updates and says what a second of it is spent on. `suite=versus other="<command>"` times another program's
command and ours in turns; either may be any command, which prints nothing or at last `{"seconds": <number>}`.
"""

from __future__ import annotations

from worldmodels.common.arguments import (
    Word,
    parse_count,
    parse_counts,
    parse_names,
    parse_path,
    parsers,
    split_arguments,
)

WORDS = {
    "suite": Word(str, "training (the default), backbones, planning, launches, loop or versus"),
    "repeats": Word(parse_count, "how often each is timed; the median is told"),
    "to": Word(parse_path, "the JSON to write"),
    "lengths": Word(parse_counts, "suite=backbones: lengths of sequences, as 64,1024"),
    "only": Word(parse_names, "which of them, as ssm,rssm; suite=training: which parts, as update"),
    "parameters": Word(parse_count, "suite=backbones: weights of each, about"),
    "batch": Word(parse_count, "suite=backbones: sequences at once"),
    "other": Word(str, "suite=versus: the command of another implementation"),
    "ours": Word(str, "suite=versus: the command it is compared with, instead of suite=training in a process"),
    "part": Word(str, "suite=versus: the part of suite=training that counts, update or 'planning step'"),
    "threads": Word(parse_count, "suite=versus: of each command"),
    "envs": Word(parse_counts, "suite=planning: decisions at once, as 1,16"),
}
CONFIGURES = "the configuration that is timed"


def main(words: list[str]) -> None:
    """Time an update and its parts, a second of training, backbones, planners, or another program beside ours."""
    import inspect
    from pathlib import Path

    from worldmodels.benchmarks import launches, loop, planning, versus
    from worldmodels.benchmarks.backbones import measure
    from worldmodels.benchmarks.training import benchmark
    from worldmodels.common.files import require_writable
    from worldmodels.errors import UserError, near_match

    suites = {
        "training": benchmark,
        "backbones": measure,
        "planning": planning.measure,
        "launches": launches.measure,
        "loop": loop.measure,
        "versus": versus.measure,
    }
    own, overrides = split_arguments(words, parsers(WORDS), required=())
    suite = own.pop("suite", "training")
    if suite not in suites:
        raise UserError(f"suite={suite} is not one of {', '.join(suites)}.{near_match(suite, suites)}")
    for key in own.keys() - inspect.signature(suites[suite]).parameters:
        raise UserError(f"suite={suite} has no option {key}=.")
    require_writable(Path(own.get("to", ".")).parent)
    suites[suite](overrides, **own)
