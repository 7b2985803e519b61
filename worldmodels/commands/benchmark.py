"""Time what a training is made of, or what backbones cost: `python scripts/benchmark.py [suite=backbones] [size=xs]`.

Prints medians and writes a JSON (`to=`). Takes the overrides of `train.py`, so that two configurations can be compared
in one run each, and `repeats=`. `suite=backbones` also takes `lengths=64,1024`, `only=ssm,rssm`, `parameters=1e6` and
`batch=4`, and writes a table and a figure beside the JSON. `suite=planning` times a decision of every planner at
TD-MPC2's sizes: `only=tdmpc,mppi`, `envs=1,16`.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Time an update and its parts, every backbone against the length of its sequences, or every planner."""
    import inspect

    from worldmodels.benchmarks import planning
    from worldmodels.benchmarks.backbones import measure
    from worldmodels.benchmarks.training import benchmark
    from worldmodels.common.arguments import parse_count, parse_counts, parse_names, split_arguments
    from worldmodels.errors import UserError, near_match

    suites = {"training": benchmark, "backbones": measure, "planning": planning.measure}
    options = {
        "repeats": parse_count,
        "to": str,
        "lengths": parse_counts,
        "only": parse_names,
        "parameters": parse_count,
        "batch": parse_count,
        "envs": parse_counts,
    }
    own, overrides = split_arguments(words, {"suite": str, **options}, required=())
    suite = own.pop("suite", "training")
    if suite not in suites:
        raise UserError(f"suite={suite} is not one of {', '.join(suites)}.{near_match(suite, suites)}")
    for key in own.keys() - inspect.signature(suites[suite]).parameters:
        raise UserError(f"suite={suite} has no option {key}=.")
    suites[suite](overrides, **own)
