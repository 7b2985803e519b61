"""Watch a trained run imagine: `python scripts/imagine.py run=runs/<folder> [imag_horizon=30] [futures=16]`."""

from __future__ import annotations

from worldmodels.common.arguments import Word, parse_count, parse_path, parse_whole, parsers, split_arguments

WORDS = {
    "run": Word(parse_path, "the run folder"),
    "episodes": Word(parse_count, "how many are played (evaluation.episodes of the run)"),
    "seed": Word(parse_whole, "of the evaluation (evaluation.seed of the run)"),
    "context": Word(parse_count, "frames a clip is shown (evaluation.context of the run)"),
    "imag_horizon": Word(parse_count, "decisions it then imagines (evaluation.imag_horizon of the run)"),
    "futures": Word(parse_count, "imagined futures whose mean is scored (evaluation.futures of the run)"),
    "to": Word(parse_path, "the folder to write, where the run's own is not to be written or cannot be"),
}
CONFIGURES = "the run's configuration, planner=cem for example"


def main(words: list[str]) -> None:
    """Play held-out episodes, then write `imagine.json`, `.gif`, `.png` and the error curves into the run folder."""
    from worldmodels.evaluation.report import play_held_out, results_folder, score_imagination
    from worldmodels.runs.loading import open_run

    own, overrides = split_arguments(words, parsers(WORDS), required=("run",))
    folder = results_folder(own["run"], [], own.pop("to", None))
    run = open_run(own.pop("run"), overrides)
    settings = dict(run.cfg.evaluation) | own
    held_out = play_held_out(run, settings["episodes"], settings["seed"])
    score_imagination(run, held_out, settings["context"], settings["imag_horizon"], settings["futures"], folder)
