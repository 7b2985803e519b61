"""Try values of one setting on a trained run: `python scripts/sweep.py run=runs/<folder> over=<key> values=1,2,4`.

`over=planner.acting.steps`, for example. `run=[runs/a,runs/b]` takes several seeds of one configuration as one row.
Further words (`planner.acting.sampler=ddim`) hold for all values. Writes `sweep.json`, `sweep.md` and `sweep.png` into
`to=` (default `sweep`). Also `episodes=` and `seed=`.
"""

from __future__ import annotations

from worldmodels.common.arguments import (
    Word,
    parse_count,
    parse_list,
    parse_path,
    parse_paths,
    parse_whole,
    parsers,
    split_arguments,
)

WORDS = {
    "run": Word(parse_paths, "the run folder, or those of several seeds of one configuration, as [runs/a,runs/b]"),
    "over": Word(str, "the key to try values of, as planner.acting.steps"),
    "values": Word(parse_list, "the values, as 1,2,4"),
    "episodes": Word(parse_count, "how many each value plays (10)"),
    "seed": Word(parse_whole, "of the evaluation (1000)"),
    "to": Word(parse_path, "the folder to write (sweep)"),
}
CONFIGURES = "the run's configuration, the same for all values"


def main(words: list[str]) -> None:
    """Play, print the table, write the files."""
    from worldmodels.evaluation.sweep import sweep

    own, rest = split_arguments(words, parsers(WORDS), required=("run", "over", "values"))
    sweep(**own, words=rest)
