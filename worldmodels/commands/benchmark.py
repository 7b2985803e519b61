"""Time what a training is made of, or what backbones cost: `python scripts/benchmark.py [suite=backbones] [size=xs]`.

Prints medians and writes a JSON (`to=`). Takes the overrides of `train.py`, so that two configurations can be compared
in one run each, and `repeats=`. `suite=backbones` also takes `lengths=64,1024`, `only=ssm,rssm`, `parameters=1e6` and
`batch=4`, and writes a table and a figure beside the JSON. `suite=planning` times a decision of every planner at
TD-MPC2's sizes: `only=tdmpc,mppi`, `envs=1,16`. `suite=launches` counts the operators of an update, a plan and a frame
of every preset, backbone and planner, and how often the host waits: `only=dreamerv3,tdmpc2`.
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
    "suite": Word(str, "training (the default), backbones, planning or launches"),
    "repeats": Word(parse_count, "how often each is timed; the median is told"),
    "to": Word(parse_path, "the JSON to write"),
    "lengths": Word(parse_counts, "suite=backbones: lengths of sequences, as 64,1024"),
    "only": Word(parse_names, "suite=backbones, planning, launches: which, as ssm,rssm"),
    "parameters": Word(parse_count, "suite=backbones: weights of each, about"),
    "batch": Word(parse_count, "suite=backbones: sequences at once"),
    "envs": Word(parse_counts, "suite=planning: decisions at once, as 1,16"),
}
CONFIGURES = "the configuration that is timed"


def main(words: list[str]) -> None:
    """Time an update and its parts, every backbone against the length of its sequences, or every planner."""
    import inspect
    from pathlib import Path

    from worldmodels.benchmarks import launches, planning
    from worldmodels.benchmarks.backbones import measure
    from worldmodels.benchmarks.training import benchmark
    from worldmodels.common.files import require_writable
    from worldmodels.errors import UserError, near_match

    suites = {"training": benchmark, "backbones": measure, "planning": planning.measure, "launches": launches.measure}
    own, overrides = split_arguments(words, parsers(WORDS), required=())
    suite = own.pop("suite", "training")
    if suite not in suites:
        raise UserError(f"suite={suite} is not one of {', '.join(suites)}.{near_match(suite, suites)}")
    for key in own.keys() - inspect.signature(suites[suite]).parameters:
        raise UserError(f"suite={suite} has no option {key}=.")
    require_writable(Path(own.get("to", ".")).parent)
    suites[suite](overrides, **own)
