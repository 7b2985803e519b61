"""Subjects of `suite=backbones`: every backbone with every posterior, at equal numbers of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

from dynamics.base import Dynamics
from dynamics.latent import POSTERIORS
from worldmodels.benchmarks.backbones_report import IMAGINED
from worldmodels.common.build import build
from worldmodels.config import load_config
from worldmodels.errors import UserError
from worldmodels.factory import path_of, without_training_keys

EMBED, ACTION = 768, 6
"""Numbers in an embedding (32x32 pixels, size xs) and in an action."""
TOLERANCE = 0.03
"""How far parameter counts may be apart."""


@dataclass(frozen=True)
class Subject:
    """One backbone with one posterior, at the width that gives it the parameters of the others."""

    name: str
    posterior: str | None
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.posterior) if part)

    def build(self, length: int) -> Dynamics:
        """With a window, where there is one, as long as the sequence, and not too short to imagine in."""
        cfg = load_config([*self.words, f"dynamics={self.name}"]).dynamics
        if "window" in cfg.get("core", {}):
            cfg.core.window = max(length, IMAGINED)
        torch.manual_seed(0)
        return build(without_training_keys(cfg), path_of(cfg), embed_dim=EMBED, action_dim=ACTION)


def subjects(name: str, parameters: int, overrides: list[str]) -> Iterator[Subject]:
    """Return a backbone's posteriors. Each has a width of its own, so that both have the same number of parameters."""
    has = "posterior" in load_config([f"dynamics={name}"]).dynamics
    for posterior in POSTERIORS if has else (None,):
        words = [*overrides, *([f"dynamics.posterior={posterior}"] if posterior else [])]
        yield Subject(name, posterior, (*words, *equal_width(name, words, parameters)))


def equal_width(name: str, words: list[str], parameters: int) -> list[str]:
    """Overrides that give a backbone ``parameters`` within 3 %: its core in steps of 16, the maps around it exactly."""

    @cache
    def count(width: int, hidden: int) -> int:
        sized = (*words, f"size.hidden={width}", f"size.deter={3 * width}", f"dynamics.hidden={hidden}")
        with torch.device("meta"):
            return sum(p.numel() for p in Subject(name, None, sized).build(64).parameters())

    def largest(low: int, high: int, count: Callable[[int], int]) -> int:
        """The largest below ``high`` that counts at most ``parameters``, or else ``low``.

        Between both, square roots of counts are nearly straight: two or three steps find what bisection finds in eight.
        """
        while high - low > 1:
            below, above = math.sqrt(count(low)), math.sqrt(count(high))
            step = (high - low) * (math.sqrt(parameters) - below) / (above - below)
            middle = min(max(low + int(step), low + 1), high - 1)
            low, high = (middle, high) if count(middle) <= parameters else (low, middle)
        return low

    width = 16 * largest(2, 256, lambda steps: count(16 * steps, 16 * steps))
    least = width if count(width, width) <= parameters else width // 2
    found = largest(least, 4 * width, lambda hidden: count(width, hidden))
    if abs(count(width, found) / parameters - 1) > TOLERANCE:
        raise UserError(f"no width gives {name} {parameters} parameters within {100 * TOLERANCE:.0f} %.")
    return [f"size.hidden={width}", f"size.deter={3 * width}", f"dynamics.hidden={found}"]
