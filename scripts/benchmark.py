"""Time what a training is made of: `python scripts/benchmark.py [size=xs] [trainer.threads=1] [repeats=20]`.

Prints medians with their spread and writes `benchmark.json`; takes the overrides of `train.py`, so that two
configurations can be compared in one run each.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Time an update and its parts, a planning step, filtering, sampling and an environment step."""
    from worldmodels.benchmarking import benchmark
    from worldmodels.cli import count, take

    own, overrides = take(words, {"repeats": count, "to": str}, required=())
    benchmark(overrides, own.get("repeats", 20), own.get("to", "benchmark.json"))


if __name__ == "__main__":
    from worldmodels.cli import run as run_script

    run_script(main)
