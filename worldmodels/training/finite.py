"""A guard against what is not finite, for which no update waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from worldmodels.common.host import read

BEHIND = 2
"""Flags that may still be on their way from a device."""

Refuse = Callable[[list[str]], None]
"""Is told the names of what is not finite, and raises."""


@runtime_checkable
class Arrival(Protocol):
    """Says when something has come from a device: an event of CUDA."""

    def query(self) -> bool:
        """Return whether it is there."""

    def synchronize(self) -> None:
        """Wait until it is."""


@dataclass(frozen=True)
class _Flags:
    names: Sequence[str]
    values: Tensor
    arrived: Arrival | None
    refuse: Refuse


class FiniteWatch:
    """Learns from a device whether numbers are finite, and refuses them once it knows.

    On a CPU that is at once. A GPU's flags are copied behind what it still computes, and looked at when they are there,
    an update or two later: what has been damaged by then is no longer saved (:meth:`settle`).
    """

    def __init__(self) -> None:
        self._waiting: deque[_Flags] = deque()

    def watch(self, numbers: dict[str, Tensor], refuse: Refuse) -> None:
        """Refuse these numbers, each of shape [], if some are not finite, and earlier ones."""
        values, arrived = self._sent(torch.stack(list(numbers.values())).detach().isfinite())
        self._waiting.append(_Flags(tuple(numbers), values, arrived, refuse))
        while self._waiting and (len(self._waiting) > BEHIND or self._is_there()):
            self._look()

    def settle(self) -> None:
        """Wait for all flags, before anything is kept."""
        while self._waiting:
            self._look()

    def _sent(self, values: Tensor) -> tuple[Tensor, Arrival | None]:
        """Send flags to the host. Return where they will be, and the event that says so."""
        if not values.is_cuda:
            return values, None
        there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return there, arrived

    def _is_there(self) -> bool:
        return self._waiting[0].arrived is None or self._waiting[0].arrived.query()

    def _look(self) -> None:
        flags = self._waiting.popleft()
        if flags.arrived is not None:
            flags.arrived.synchronize()
        bad = [name for name, good in zip(flags.names, read(flags.values), strict=True) if not good]
        if bad:
            self._waiting.clear()
            flags.refuse(bad)
