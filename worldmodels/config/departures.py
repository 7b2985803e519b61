"""What a run does otherwise than the published algorithm that its experiment is."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldmodels.config.aliases import bare
from worldmodels.config.compose import is_group, load_config
from worldmodels.config.scales import OVER_ALL, scales_by_part
from worldmodels.config.sources import SEARCH

FREE = (
    *("seed", "run_dir", "resume", "frames", "published", "protocol", "protocol_of", "experiment", "trust"),
    *("loggers", "visualization", "trainer", "data.limit_gib", SEARCH),
    *("evaluation.episodes", "evaluation.seed", "evaluation.context", "evaluation.imag_horizon"),
    *("env.task", "env.id", "env.kwargs", "env.step_timeout"),
)
"""Keys that an algorithm leaves open."""


def departures(cfg: DictConfig) -> list[str]:
    """List the words of a configuration that its published algorithm has otherwise, and how it has them."""
    if not cfg.published:
        return []
    chosen = {key: cfg.choices[key] for key in ("experiment", "protocol") if cfg.choices.get(key)}
    folders = [word for word in cfg.words if bare(word) == SEARCH]  # with experiments of one's own
    as_published = load_config([*folders, *(f"{key}={value}" for key, value in chosen.items())])
    told = []
    for word in cfg.words:
        key = bare(word)
        if any(key == free or key.startswith(f"{free}.") for free in FREE):
            continue
        here, there = (_said(each, word) for each in (cfg, as_published))
        if here != there:
            told.append(f"{key}={here} instead of {there}")
    return told


def _said(cfg: DictConfig, word: str) -> Any:
    key = bare(word)
    if is_group(word):
        return cfg.choices.get(key)
    if key.startswith(OVER_ALL):  # the root's factor, or else the part's own
        scales = {name: scale for part in scales_by_part(cfg).values() for name, scale in part.items()}
        return scales.get(key.removeprefix(OVER_ALL))
    return OmegaConf.select(cfg, key)
