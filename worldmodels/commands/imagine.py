"""Watch a trained run imagine: `python scripts/imagine.py run=runs/<folder> [imag_horizon=30] [futures=16]`."""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Play held-out episodes, then write `imagine.json`, `.gif`, `.png` and the error curves into the run folder."""
    from worldmodels.common.arguments import parse_count, parse_whole, split_arguments
    from worldmodels.evaluation.report import play_held_out, score_imagination
    from worldmodels.runs.loading import open_run

    known = {
        "run": str,
        "episodes": parse_count,
        "seed": parse_whole,
        "context": parse_count,
        "imag_horizon": parse_count,
        "futures": parse_count,
    }
    own, overrides = split_arguments(words, known, required=("run",))
    run = open_run(own.pop("run"), overrides)
    settings = dict(run.cfg.evaluation) | own
    held_out = play_held_out(run, settings["episodes"], settings["seed"])
    score_imagination(run, held_out, settings["context"], settings["imag_horizon"], settings["futures"])
