"""What a run does otherwise than the published algorithm that its experiment is."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldmodels.config.aliases import bare
from worldmodels.config.compose import is_group, load_config

FREE = (
    *("seed", "run_dir", "resume", "frames", "published", "protocol", "experiment", "trust"),
    *("loggers", "visualization", "trainer", "data.limit_gib"),
    *("evaluation.episodes", "evaluation.seed", "evaluation.context", "evaluation.imag_horizon"),
    *("env.task", "env.id", "env.kwargs", "env.step_timeout"),
)
"""Keys that an algorithm leaves open."""


def departures(cfg: DictConfig) -> list[str]:
    """List the words of a configuration that its published algorithm has otherwise, and how it has them."""
    if not cfg.published:
        return []
    chosen = {key: cfg.choices[key] for key in ("experiment", "protocol") if cfg.choices.get(key)}
    as_published = load_config([f"{key}={value}" for key, value in chosen.items()])
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
    return cfg.choices.get(bare(word)) if is_group(word) else OmegaConf.select(cfg, bare(word))
