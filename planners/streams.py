"""Random numbers for decisions that are made together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from worldmodels.common.host import send

STEP, MIX = -0x61C8864680B583EB, ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))
"""Constants of SplitMix64 (Steele et al. 2014), as signed integers: its step, and shifts and factors of its mixing."""


class RowStreams:
    """One stream of random numbers a row, so that rows planned together equal rows planned one by one.

    Numbers 2i and 2i + 1 of a stream are a hash of its seed and i: all rows draw at once, and no host waits for a
    device.
    """

    def __init__(self, seeds: Int64[Tensor, " N"], rows: Sequence[int], drawn: list[int]) -> None:
        self._seeds, self._rows, self._drawn = seeds, rows, drawn

    @classmethod
    def seeded(cls, rows: int, generator: Generator | None, device: torch.device) -> RowStreams:
        """Seed ``rows`` streams one after another from ``generator``. None: from the global stream."""
        source = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**62, (rows,), generator=generator, device=source)
        return cls(send(seeds, device), range(rows), [0] * rows)

    def __len__(self) -> int:
        return len(self._rows)

    def normal(self, *shape: int) -> Float[Tensor, "N ..."]:
        """Draw standard normal numbers [N, *shape], each row from its own stream."""
        count, device = math.prod(shape), self._seeds.device
        pairs, begin = -(-count // 2), [self._drawn[row] for row in self._rows]
        index = torch.arange(pairs, device=device)
        index = index + (begin[0] if len(set(begin)) == 1 else send(torch.tensor(begin), device)[:, None])
        for row in self._rows:
            self._drawn[row] += pairs
        return normal(self._seeds[:, None] + index * STEP)[:, :count].unflatten(1, shape)

    def select(self, rows: Sequence[int] | slice) -> RowStreams:
        """Return the streams of some rows, which go on as they stand."""
        if isinstance(rows, slice):
            return RowStreams(self._seeds[rows], self._rows[rows], self._drawn)
        chosen = send(torch.tensor(rows), self._seeds.device)
        return RowStreams(self._seeds[chosen], [self._rows[row] for row in rows], self._drawn)


def normal(state: Int64[Tensor, "N K"]) -> Float[Tensor, "N L"]:
    """Hash integers to two standard normal numbers each: SplitMix64, and the normal quantile of 24 bits."""
    for shift, factor in MIX:
        state = (state ^ _shifted(state, shift)).mul_(factor)
    bits = (state ^ _shifted(state, 31)).view(torch.int32) >> 8
    uniform = bits.float().add_(0.5).mul_(2.0**-23)  # within (-1, 1)
    return torch.erfinv(uniform).mul_(math.sqrt(2))


def _shifted(x: Int64[Tensor, "..."], bits: int) -> Int64[Tensor, "..."]:
    """Shift to the right without the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
