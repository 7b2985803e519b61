"""Score a trained run: `python scripts/evaluate.py run=runs/<folder> [planner=cem] [episodes=10] [seed=1]`."""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Write `evaluation.json` and `evaluation.mp4` into the run folder and print the table."""
    from worldmodels.cli import count, take, whole
    from worldmodels.runs import open_run
    from worldmodels.scoring import score

    own, overrides = take(words, {"run": str, "episodes": count, "seed": whole}, required=("run",))
    run = open_run(own["run"], overrides)
    score(run, own.get("episodes", run.cfg.evaluation.episodes), own.get("seed", run.cfg.evaluation.seed))


if __name__ == "__main__":
    from worldmodels.cli import run as run_script

    run_script(main)
