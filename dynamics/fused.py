"""Whether a fused kernel of somebody else's is used in place of plain PyTorch: only where it gives the same numbers."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest relative difference at which a kernel counts as giving the same numbers; leaves room for TF32."""
_DECIDED: dict[tuple[Hashable, ...], bool] = {}


def is_exact(
    what: str, package: str, device: torch.device, sizes: tuple[Hashable, ...], measure: Callable[[], float]
) -> bool:
    """Return whether to use the kernel for ``what``. Decided and logged once for a device and such sizes.

    Args:
        package: where the kernel is from, as it is imported.
        measure: returns the largest relative difference of the two, on made-up numbers (:func:`apart`).
    """
    key = (what, device, *sizes)
    if key not in _DECIDED:
        _DECIDED[key] = _decide(what, package, device, measure)
    return _DECIDED[key]


def _decide(what: str, package: str, device: torch.device, measure: Callable[[], float]) -> bool:
    name = package.replace("_", "-")
    if importlib.util.find_spec(package) is None:
        log.info("%s: plain PyTorch is used; %s, which has a fused kernel for GPUs, is not installed", what, name)
        return False
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):  # whoever asks first, and in what
            error = measure()
    except Exception as failure:  # a kernel that cannot be compiled or launched here fails in its own way
        log.info("%s: %s does not run on %s (%s): plain PyTorch is used", what, name, device, failure)
        return False
    if not error <= TOLERANCE:
        log.info("%s: %s's fused kernel differs by %.1e on %s: plain PyTorch is used", what, name, error, device)
        return False
    log.info("%s: the fused kernel is used on %s; it differs by %.1e", what, device, error)
    return True


def apart(outputs: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> float:
    """Return the largest difference of two results, relative to the largest number of each tensor."""
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(outputs, others, strict=True))
