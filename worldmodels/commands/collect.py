"""Record a dataset: `python scripts/collect.py to=data/cheetah env.task=cheetah_run frames=20000 planner=random`.

With `run=runs/<folder>` a trained planner acts, with its model, exploring unless `explore=false`. Without, any planner
acts that consults none.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Fill a replay folder, which `worldmodels.data.replay.Replay.open` reads."""
    from worldmodels.common.arguments import parse_bool, parse_count, split_arguments
    from worldmodels.runs.recorder import record

    own, overrides = split_arguments(
        words, {"to": str, "run": str, "frames": parse_count, "explore": parse_bool}, required=("to",)
    )
    record(own["to"], own.get("run"), own.get("frames"), overrides, own.get("explore", True))
