"""Compare planners on trained models: `python scripts/compare.py runs=[runs/a,runs/b] planners=[mppi,cem]`.

Every planner on every run, from the same start states and seeds, beside searches on the simulator, random and constant
actions. Runs that differ in their seed alone are one row. Also how well each model predicts and ranks. A planner may
bring options: `planners="[tdmpc,tdmpc mpc=false]"`. `against="mppi on a"` names the row that others' differences are
told from, the first by default. `bound=true` also searches farther on the simulator, which takes long. Writes
`compare.json`, `compare.md` and `compare.png` into `to=` (default `compare`). Also `episodes=`, `seed=` and
`simulator=false`.
"""

from __future__ import annotations

from worldmodels.common.arguments import (
    Word,
    parse_bool,
    parse_count,
    parse_list,
    parse_path,
    parse_paths,
    parse_whole,
    parsers,
    split_arguments,
)

WORDS = {
    "runs": Word(parse_paths, "run folders, as [runs/a,runs/b]"),
    "planners": Word(parse_list, "planners, each with its options; those of the trainings without it"),
    "episodes": Word(parse_count, "how many each plays (10)"),
    "seed": Word(parse_whole, "of the evaluation (1000)"),
    "simulator": Word(parse_bool, "whether searches play on the simulator too (true)"),
    "bound": Word(parse_bool, "whether searches that see farther do too, which takes long (false)"),
    "against": Word(str, "the row that others' differences are told from, as 'mppi on a' (the first)"),
    "to": Word(parse_path, "the folder to write (compare)"),
}


def main(words: list[str]) -> None:
    """Play the grid, print the table, write the files."""
    import logging

    from worldmodels.errors import UserError, near_match
    from worldmodels.evaluation.comparison import compare

    own, rest = split_arguments(words, parsers(WORDS) | {"oracle": parse_bool}, required=("runs",))
    for word in rest:
        key = word.partition("=")[0]
        raise UserError(f"compare.py has no option {key!r}.{near_match(key, WORDS)}")
    if "oracle" in own:
        logging.getLogger(__name__).warning(
            "oracle= is called simulator= now, and the old word will go with the next release"
        )
        own.setdefault("simulator", own.pop("oracle"))
    compare(**own)
