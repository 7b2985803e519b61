"""What the host holds and what a device holds: how each gets at the other's without waiting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def read(x: Tensor) -> Any:
    """Return the numbers of a tensor that the host itself holds, as Python's. Nothing is waited for.

    Raises:
        ValueError: a device holds it, which would have to be waited for.
    """
    if x.device.type != "cpu":
        raise ValueError(
            f"this tensor is on {x.device}, and reading it would wait for all that is still computed there"
        )
    with torch._C.DisableTorchFunction():  # not to be counted among the waits (benchmarks/launches.py)
        return x.tolist()


def send(x: Tensor, device: torch.device) -> Tensor:
    """Return the host's tensor on a device, behind what that is still to compute."""
    return x.to(device, non_blocking=True)
