"""Hydra's own main: ``--multirun`` with its sweepers and launchers, ``--cfg job``, ``--info``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from worldmodels.config import config_dir
from worldmodels.config.compose import SEARCH, current, forced, hydra_errors_to_user_errors
from worldmodels.config.words import readable, unquoted

QUIET = (
    "hydra.run.dir=.",  # runs have folders of their own: Hydra makes none, and stays where it is
    "hydra.sweep.dir=runs",  # multirun.yaml, what was swept
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


class _Ended(BaseException):
    """Carries a run's error through Hydra, which keeps an ``Exception`` until all runs are over and prints a line."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def run_hydra(words: list[str], job: Callable[[list[str]], object]) -> None:
    """Let Hydra read its flags and call ``job`` with the words of each run; the first error ends all, raised as it is.

    Hydra itself would go on with the next run after a mistake or Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints tracebacks and ends the process

    @hydra.main(config_path=str(config_dir()), config_name="train", version_base=None)
    def main(_: DictConfig) -> None:
        try:
            with _another_hydra():
                job([*searched, *map(unquoted, HydraConfig.get().overrides.task)])
        except Exception as error:
            raise _Ended(error) from error

    searched = [word for word in words if word.startswith(f"{SEARCH}=")]
    flags = [word for word in words if "=" not in word or word.startswith("-")]
    said = current([readable(word) for word in words if word not in flags])
    before, sys.argv = sys.argv, [sys.argv[0], *flags, *map(forced, said), *QUIET]
    error: Exception | None = None
    try:
        with hydra_errors_to_user_errors(said, "train"):
            main()
    except _Ended as ended:
        error = ended.error
    finally:
        sys.argv = before
    if error is not None:
        raise error  # here, where it gets no second context


@contextmanager
def _another_hydra() -> Iterator[None]:
    """Let a run compose configurations of its own within Hydra's main, which holds the only place for one."""
    place = GlobalHydra.instance()
    held, place.hydra = place.hydra, None
    try:
        yield
    finally:
        place.hydra = held
