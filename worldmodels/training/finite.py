"""A guard against what is not finite, for which no update waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.common.host import read

BEHIND = 2
"""Flags that may still be on their way from a device."""

Refuse = Callable[[list[str]], None]
"""Is told the names of what is not finite, and raises."""


@dataclass(frozen=True)
class _Flags:
    names: Sequence[str]
    values: Tensor
    arrived: torch.cuda.Event | None
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
        values, arrived = torch.stack(list(numbers.values())).detach().isfinite(), None
        if values.is_cuda:
            values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(_Flags(tuple(numbers), values, arrived, refuse))
        while self._waiting and (len(self._waiting) > BEHIND or self._is_there()):
            self._look()

    def settle(self) -> None:
        """Wait for all flags, before anything is kept."""
        while self._waiting:
            self._look()

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
