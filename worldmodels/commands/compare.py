"""Compare planners on trained models: `python scripts/compare.py runs=[runs/a,runs/b] planners=[mppi,cem]`.

Every planner on every run, from the same start states and seeds, beside the oracle, random and constant actions. Also
how well each model predicts and ranks. A planner may bring options: `planners="[tdmpc,tdmpc mpc=false]"`. Writes
`compare.json`, `compare.md` and `compare.png` into `to=` (default `compare`). Also `episodes=`, `seed=` and
`oracle=false`.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Play the grid, print the table, write the files."""
    from worldmodels.common.arguments import parse_bool, parse_count, parse_list, parse_whole, split_arguments
    from worldmodels.errors import UserError, near_match
    from worldmodels.evaluation.comparison import compare

    known = {
        "runs": parse_list,
        "planners": parse_list,
        "episodes": parse_count,
        "seed": parse_whole,
        "oracle": parse_bool,
        "to": str,
    }
    own, rest = split_arguments(words, known, required=("runs",))
    for word in rest:
        key = word.partition("=")[0]
        raise UserError(f"compare.py has no option {key!r}.{near_match(key, known)}")
    compare(**own)
