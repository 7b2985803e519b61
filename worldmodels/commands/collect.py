"""Record a dataset: `python scripts/collect.py to=data/cheetah env.task=cheetah_run frames=20000 planner=random`.

With `run=runs/<folder>` a trained planner acts, with its model, exploring unless `explore=false`. Without, any planner
acts that consults none.
"""

from __future__ import annotations

from worldmodels.common.arguments import Word, parse_bool, parse_count, parse_path, parsers, split_arguments

WORDS = {
    "to": Word(parse_path, "the new folder of the recording"),
    "run": Word(parse_path, "a run folder whose planner acts, with its model"),
    "frames": Word(parse_count, "environment frames to record"),
    "explore": Word(parse_bool, "with run=: whether its planner explores (the default)"),
}
CONFIGURES = "the environment and the planner"


def main(words: list[str]) -> None:
    """Fill a replay folder, which `worldmodels.data.replay.Replay.open` reads."""
    from worldmodels.runs.recorder import record

    own, overrides = split_arguments(words, parsers(WORDS), required=("to",))
    record(own["to"], own.get("run"), own.get("frames"), overrides, own.get("explore", True))
