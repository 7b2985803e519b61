"""Train a world model and a planner: `python scripts/train.py env.task=walker_walk planner=cem`."""

from __future__ import annotations


def main(words: list[str]) -> None:
    """Train, evaluate, draw; see configs/train.yaml for every key."""
    from worldmodels.training.run import train

    train(words)


if __name__ == "__main__":  # workers are spawned, which imports this file again: everything heavy waits until here
    from worldmodels.cli import run

    run(main)
