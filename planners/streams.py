"""Random numbers for decisions that are made together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Generator


class RowStreams:
    """One stream of random numbers a row, so that rows planned together equal rows planned one by one."""

    def __init__(self, seeds: Int64[Tensor, " M"], made: list[Generator], rows: Sequence[int], device: torch.device):
        self._seeds, self._made, self._rows, self.device = seeds, made, rows, device

    @classmethod
    def seeded(cls, rows: int, generator: Generator | None, device: torch.device) -> RowStreams:
        """Seed ``rows`` streams one after another from ``generator``. None: from the global stream."""
        source = "cpu" if generator is None else generator.device
        return cls(torch.randint(2**62, (rows,), generator=generator, device=source), [], range(rows), device)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def generators(self) -> list[Generator]:
        """Return the generator of each row. They are made when first used, as many decisions draw nothing."""
        if not self._made:
            self._made += [Generator(self.device).manual_seed(seed) for seed in self._seeds.tolist()]
        return [self._made[row] for row in self._rows]

    def normal(self, *shape: int) -> Float[Tensor, "N ..."]:
        """Draw standard normal numbers [N, *shape], each row from its own stream."""
        noise = torch.empty(len(self), *shape, device=self.device)
        for row, generator in zip(noise, self.generators, strict=True):
            row.normal_(generator=generator)
        return noise

    def select(self, rows: Int64[Tensor, " K"] | slice) -> RowStreams:
        """Return the streams of some rows, which go on as they stand."""
        chosen = self._rows[rows] if isinstance(rows, slice) else [self._rows[row] for row in rows.tolist()]
        return RowStreams(self._seeds, self._made, chosen, self.device)

    def repeat(self, count: int) -> list[Generator]:
        """Return each row's generator ``count`` times, consecutively, for libraries that draw row after row."""
        return [generator for generator in self.generators for _ in range(count)]
