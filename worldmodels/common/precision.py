"""Numerical precision and device by one word each, for Lightning and for acting outside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from worldmodels.common.choices import Accelerator, Precision
from worldmodels.common.options import checked
from worldmodels.errors import OptionError

LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""Our words and Lightning's."""


@checked
def lightning_precision(precision: Precision) -> str:
    """Return Lightning's name of a precision."""
    return LIGHTNING[precision]


@checked
def context(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager]:
    """Make a factory of the autocast context in which acting and imagining run."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


@checked
def device_of(accelerator: Accelerator) -> torch.device:
    """Return the device of an accelerator. ``auto`` is a GPU where there is one."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        reason = "cannot be used here, because PyTorch sees no GPU: run scripts/doctor.py, or use cpu"
        raise OptionError("accelerator", accelerator, reason)
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in fp32 where autocast narrowed it. What is fp64 stays so, as where numbers are checked."""
    return x.to(wide_dtype(x))


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of :func:`wide`."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
