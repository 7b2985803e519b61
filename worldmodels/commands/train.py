"""Train a world model and a planner: `python scripts/train.py env.task=walker_walk planner=cem`.

Words are `group=file` and `key=value`; `--help` lists those that there are, with the others given. `resume=<run>`
continues a run, `world_model=<run>` trains a planner on its frozen model, `data=<recording>` learns without acting.
`-m seed=0,1` makes a run of each value, as Hydra's multirun; `--cfg job` prints the configuration.
`--config-dir FOLDER` adds a folder with files of groups of your own.
"""

from __future__ import annotations

from worldmodels.common.arguments import Word, listed, parse_list, parse_path

WORDS = {
    "run_dir": Word(parse_path, "the new run folder (runs/<date>_<time>_<task>_<dynamics>_<planner>)"),
    "data": Word(parse_list, "a recording, HDF5 or npz files, minari:<id>, or a list of them: learn without acting"),
    "resume": Word(parse_path, "a run folder, to continue it"),
    "world_model": Word(parse_path, "a run folder, to train a planner on its frozen world model"),
    "trust": Word(parse_list, "modules of your own whose classes may be named"),
}


def main(words: list[str]) -> None:
    """Train, evaluate, draw. See configs/train.yaml for every key."""
    from worldmodels.training.run import train

    if any(word.startswith("-") for word in words):
        from worldmodels.training.hydra_main import run_hydra

        run_hydra(words, train)
    else:
        train(words)


def options(words: list[str]) -> str:
    """List groups and options."""
    from worldmodels.config.reference import help_text
    from worldmodels.training.run import shown_config

    words = [word for word in words if not word.startswith("-")]
    return f"{listed(WORDS)}\n\n{help_text(shown_config(words), words)}"
