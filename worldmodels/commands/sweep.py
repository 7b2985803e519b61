"""Try values of one setting on a trained run: `python scripts/sweep.py run=runs/<folder> over=<key> values=1,2,4`.

`over=planner.acting.steps`, for example. `run=[runs/a,runs/b]` takes several seeds of one configuration as one row.
Further words (`planner.acting.sampler=ddim`) hold for all values. Writes `sweep.json`, `sweep.md` and `sweep.png` into
`to=` (default `sweep`). Also `episodes=` and `seed=`.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Play, print the table, write the files."""
    from worldmodels.common.arguments import parse_count, parse_list, parse_whole, split_arguments
    from worldmodels.evaluation.sweep import sweep

    known = {
        "run": parse_list,
        "over": str,
        "values": parse_list,
        "episodes": parse_count,
        "seed": parse_whole,
        "to": str,
    }
    own, rest = split_arguments(words, known, required=("run", "over", "values"))
    sweep(**own, words=rest)
