"""Score a trained run: `python scripts/evaluate.py run=runs/<folder> [planner=cem] [episodes=10] [seed=1]`.

What is scored with anything changed, another planner for example, goes into a folder of its own in the run's
`evaluations/`. `model=simulator` searches with the simulator in the model's place and writes
`evaluation_simulator.json`.
"""

from __future__ import annotations

from worldmodels.common.arguments import Word, parse_count, parse_path, parse_whole, parsers, split_arguments

WORDS = {
    "run": Word(parse_path, "the run folder"),
    "model": Word(str, "learned (the default), or simulator: search with the simulator in the model's place"),
    "episodes": Word(parse_count, "how many are played (evaluation.episodes of the run)"),
    "seed": Word(parse_whole, "of the evaluation (evaluation.seed of the run)"),
    "to": Word(parse_path, "the folder to write, where the run's own is not to be written or cannot be"),
}
CONFIGURES = "the run's configuration, planner=cem for example"


def main(words: list[str]) -> None:
    """Write `evaluation.json` and a video, `evaluation.mp4` or `.webm`, and print the table."""
    import logging
    from dataclasses import replace

    from worldmodels.errors import UserError, near_match
    from worldmodels.evaluation.report import results_folder, score, score_on_simulator
    from worldmodels.runs.loading import open_run

    scores = {"learned": score, "simulator": score_on_simulator, "oracle": score_on_simulator}
    own, overrides = split_arguments(words, parsers(WORDS), required=("run",))
    model = own.get("model", "learned")
    if model not in scores:
        raise UserError(f"model={model} is not one of {', '.join(scores)}.{near_match(model, scores)}")
    if model == "oracle":
        logging.getLogger(__name__).warning(
            "model=oracle is called model=simulator now, and the old word will go with the next release"
        )
    folder = results_folder(own["run"], overrides, own.get("to"))
    run = replace(open_run(own["run"], overrides), path=folder)
    scores[model](run, own.get("episodes", run.cfg.evaluation.episodes), own.get("seed", run.cfg.evaluation.seed))
