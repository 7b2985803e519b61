"""Trainings of one configuration that differ in their seed alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldmodels.errors import require
from worldmodels.runs.edit import NO_RESULTS, replayed
from worldmodels.runs.folders import read_config

NOT_LEARNED = (*NO_RESULTS, "choices", "resume", "seed", "words")
"""Keys in which trainings of one configuration may differ. What words and choices say, the other keys hold."""


@dataclass(frozen=True)
class Trainings:
    """Runs of one configuration, one a seed."""

    name: str
    """The first run's folder, with as many of those around it as tell it from others."""
    paths: list[str]
    seeds: list[int]


def what_is_learned(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration without its seed, its place, and what changes nothing that is learned."""
    cfg = copy.deepcopy(cfg)
    cfg.seed = 0  # other keys may be made of it
    plain = OmegaConf.to_container(cfg, resolve=True)
    learned = {key: value for key, value in plain.items() if key not in NOT_LEARNED}
    numbers = {key: plain["trainer"].get(key) for key in ("precision", "acting_precision")}
    return learned | {"env": replayed(plain["env"])} | numbers


def by_configuration(paths: Sequence[str]) -> list[Trainings]:
    """Gather runs that differ in their seed alone, in the order of the first of each.

    A seed that was there already, another version of the code perhaps, begins a row of its own.
    """
    twice = next((path for path in paths if list(paths).count(path) > 1), None)
    require(twice is None, f"{twice} is named twice: a training counts once.")
    found: list[tuple[dict[str, Any], Trainings]] = []
    for path in paths:
        cfg = read_config(Path(path))
        learned = what_is_learned(cfg)
        fitting = (one for known, one in found if known == learned and cfg.seed not in one.seeds)
        trainings = next(fitting, None)
        if trainings is None:
            trainings = Trainings(short_name(path, paths), [], [])
            found.append((learned, trainings))
        trainings.paths.append(path)
        trainings.seeds.append(int(cfg.seed))
    return [trainings for _, trainings in found]


def short_name(path: str, others: Sequence[str]) -> str:
    """Return the end of a path that none of the others has."""
    parts = Path(path).parts
    for count in range(1, len(parts)):
        if not any(Path(other).parts[-count:] == parts[-count:] for other in others if other != path):
            return str(Path(*parts[-count:]))
    return path
