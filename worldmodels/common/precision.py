"""Numerical precision and device by one word each, for Lightning and for acting outside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from worldmodels.common.choices import Accelerator, ActingPrecision, Precision
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
def acting(word: ActingPrecision, device: torch.device) -> Precision:
    """Return the precision of acting. ``auto`` is bf16 where the device multiplies in it."""
    if word != "auto":
        return word
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("arm_bf16") else "fp32"


def acting_context(trainer: Mapping[str, Any], device: torch.device) -> Callable[[], AbstractContextManager]:
    """Make the factory of the context in which plans and frames are computed, of a run's options of the trainer."""
    return context(acting(trainer["acting_precision"], device), device)


@checked
def device_of(accelerator: Accelerator) -> torch.device:
    """Return the device of an accelerator. ``auto`` is a GPU where there is one."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        reason = "cannot be used here, because PyTorch sees no GPU: run scripts/doctor.py, or use cpu"
        raise OptionError("accelerator", accelerator, reason)
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def prepared_device(trainer: Mapping[str, Any]) -> torch.device:
    """Return the device of a run's options of the trainer, set to compute products in fp32 as ``tf32`` says.

    TF32 multiplies with ten bits of a fraction, several times as fast, and adds in fp32. Only GPUs have it.
    """
    device = device_of(trainer["accelerator"])
    if device.type == "cuda":
        products = "tf32" if trainer["tf32"] else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = products
    return device


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in fp32 where autocast narrowed it. What is fp64 stays so, as where numbers are checked."""
    return x.to(wide_dtype(x))


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of :func:`wide`."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
