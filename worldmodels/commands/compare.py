"""Compare planners on trained models: `python scripts/compare.py runs=[runs/a,runs/b] planners=[mppi,cem]`.

Every planner on every run, from the same start states and seeds, beside searches on the simulator, random and constant
actions. Runs that differ in their seed alone are one row. Also how well each model predicts and ranks. A planner may
bring options: `planners="[tdmpc,tdmpc mpc=false]"`. `against="mppi on a"` names the row that others' differences are
told from, the first by default. `bound=true` also searches farther on the simulator, which takes long. Writes
`compare.json`, `compare.md` and `compare.png` into `to=` (default `compare`). Also `episodes=`, `seed=` and
`simulator=false`.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Play the grid, print the table, write the files."""
    import logging

    from worldmodels.common.arguments import parse_bool, parse_count, parse_list, parse_whole, split_arguments
    from worldmodels.errors import UserError, near_match
    from worldmodels.evaluation.comparison import compare

    known = {
        "runs": parse_list,
        "planners": parse_list,
        "episodes": parse_count,
        "seed": parse_whole,
        "simulator": parse_bool,
        "bound": parse_bool,
        "against": str,
        "to": str,
    }
    own, rest = split_arguments(words, known | {"oracle": parse_bool}, required=("runs",))
    for word in rest:
        key = word.partition("=")[0]
        raise UserError(f"compare.py has no option {key!r}.{near_match(key, known)}")
    if "oracle" in own:
        logging.getLogger(__name__).warning(
            "oracle= is called simulator= now, and the old word will go with the next release"
        )
        own.setdefault("simulator", own.pop("oracle"))
    compare(**own)
