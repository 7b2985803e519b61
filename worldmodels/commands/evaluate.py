"""Score a trained run: `python scripts/evaluate.py run=runs/<folder> [planner=cem] [episodes=10] [seed=1]`.

What is scored with anything changed, another planner for example, goes into a folder of its own in the run's
`evaluations/`. `model=simulator` searches with the simulator in the model's place and writes
`evaluation_simulator.json`.
"""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Write `evaluation.json` and `evaluation.mp4` and print the table."""
    import logging

    from worldmodels.common.arguments import parse_count, parse_whole, split_arguments
    from worldmodels.errors import UserError, near_match
    from worldmodels.evaluation.report import score, score_on_simulator, variant_folder
    from worldmodels.runs.loading import open_run

    scores = {"learned": score, "simulator": score_on_simulator, "oracle": score_on_simulator}
    own, overrides = split_arguments(
        words, {"run": str, "model": str, "episodes": parse_count, "seed": parse_whole}, required=("run",)
    )
    model = own.get("model", "learned")
    if model not in scores:
        raise UserError(f"model={model} is not one of {', '.join(scores)}.{near_match(model, scores)}")
    if model == "oracle":
        logging.getLogger(__name__).warning(
            "model=oracle is called model=simulator now, and the old word will go with the next release"
        )
    run = variant_folder(open_run(own["run"], overrides), overrides)
    scores[model](run, own.get("episodes", run.cfg.evaluation.episodes), own.get("seed", run.cfg.evaluation.seed))
