"""Numerical precision and device by one word each, for Lightning and for acting outside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from worldmodels.errors import UserError, near_match

LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""Our words and Lightning's."""

ACCELERATORS = ("auto", "cpu", "gpu")


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


def device_of(accelerator: str) -> torch.device:
    """The device that ``trainer.accelerator`` names: ``auto`` is a GPU where there is one."""
    if accelerator not in ACCELERATORS:
        hint = near_match(accelerator, ACCELERATORS)
        raise UserError(f"trainer.accelerator={accelerator} is not one of {', '.join(ACCELERATORS)}.{hint}")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator=gpu cannot be used here, because PyTorch sees no GPU: run scripts/doctor.py, or use "
            "trainer.accelerator=cpu."
        )
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
