"""Numerical precision by one word, for Lightning and for acting outside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from worldmodels.errors import UserError, near_match

LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""Our words and Lightning's."""


def lightning_precision(word: str) -> str:
    """Lightning's name for ``fp32`` or ``bf16``."""
    if word not in LIGHTNING:
        raise UserError(f"trainer.precision is fp32 or bf16, not {word!r}.{near_match(word, LIGHTNING)}")
    return LIGHTNING[word]


def context(word: str, device: torch.device) -> Callable[[], AbstractContextManager]:
    """A factory of the autocast context in which acting and imagining run."""
    lightning_precision(word)
    if word == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
