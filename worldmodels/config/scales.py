"""Factors of losses: each part has its own beside its options, and ``loss_scales`` at the root stands above them."""

from __future__ import annotations

from typing import TypeVar

from omegaconf import DictConfig

from worldmodels.common.columns import cameras
from worldmodels.errors import UserError, near_match, require

Node = TypeVar("Node", DictConfig, dict)
OVER_ALL = "loss_scales."
"""Beginning of a word that sets the factor of a loss, whichever part has it."""


def learner_of(cfg: Node) -> Node:
    """Return the part of a planner's configuration, plain or not, that says what is learned."""
    return cfg.get("learner", cfg)


def parts_of(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the parts of a configuration that may have losses, by their place in it."""
    return {
        "dynamics": cfg.dynamics,
        **{f"objective.{name}": objective for name, objective in cfg.objective.items()},
        **{f"heads.{name}": head for name, head in cfg.heads.items()},
        "planner": learner_of(cfg.planner),
    }


def scales_by_part(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Return the factor of every loss of every part, those of the root above the parts' own."""
    return {
        place: {name: cfg.loss_scales.get(name, scale) for name, scale in (part.get("loss_scales") or {}).items()}
        for place, part in parts_of(cfg).items()
    }


def require_scales(cfg: DictConfig) -> None:
    """Refuse a loss that two parts name alike, a factor for a loss that no part has, and one that is no number."""
    known: dict[str, str] = {}
    for place, scales in scales_by_part(cfg).items():
        for name, scale in scales.items():
            require(
                name not in known,
                f"{place} and {known.get(name)} both have a loss {name!r}: names of losses are unique, leave one out.",
            )
            require(
                isinstance(scale, int | float) and not isinstance(scale, bool),
                f"the scale of the loss {name!r} must be a number, not {scale!r}.",
            )
            known[name] = place
    for name in cfg.loss_scales.keys() - known.keys() - set(cameras(cfg.loss_scales)):
        raise UserError(f"there is no loss {name!r} to scale: there are {', '.join(known)}.{near_match(name, known)}")
