"""Which rows of a replay's ring are valid, said so that no kill at any moment leaves a wrong one."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor


class Ledger:
    """Which rows of the ring are valid, in five numbers on disk that outlive a killed process.

    A row has a number, 0, 1, 2, ..., and lies at ``number % steps``. All environments are written in lockstep and share
    it. ``count`` is the next row's number. ``high`` is one more than the last row *begun*, so that a row cut off by a
    kill does not pass for the older one it was overwriting. Rows below ``low`` are gone for good. Positions from
    ``hole_from`` on have lost the rows below ``hole_until`` (a truncated file). Each number is one atomic write.
    """

    BYTES = 5 * 8

    def __init__(self, values: Int64[Tensor, "5"], steps: int):
        self.values = values
        self.steps = steps
        self.high, self.count, self.low, self.hole_from, self.hole_until = values.tolist()

    def begin(self, rows: int = 1) -> None:
        """Mark the next rows' places as being overwritten. Called before their bytes change."""
        self.high = self.count + rows
        self.values[0] = self.high

    def commit(self, rows: int = 1) -> None:
        """Count the rows that have just been written."""
        self.count += rows
        self.values[1] = self.count

    def rewind(self, count: int) -> None:
        """Go back to a checkpoint's row number: later rows are invalid, and so are those they have overwritten."""
        self.low = min(count, max(self.low, self.high - self.steps))
        self.hole_until = min(count, self.hole_until)
        self.high = self.count = count
        for place in (2, 4, 1, 0):
            self.values[place] = (self.high, self.count, self.low, self.hole_from, self.hole_until)[place]

    def lose(self, position: int) -> None:
        """Positions from ``position`` on hold nothing any more, for the rows that have been counted so far."""
        self.hole_from = min(position, self.hole_from) if self.hole_until else position
        self.hole_until = self.count
        self.values[3] = self.hole_from
        self.values[4] = self.hole_until

    def runs(self) -> list[tuple[int, int]]:
        """Unbroken stretches ``[first, end)`` of valid row numbers, oldest first."""
        low = max(self.low, self.high - self.steps)
        cut = min(max(low, self.hole_until), self.count)
        laps = range(low // self.steps * self.steps, cut, self.steps)
        pieces = [(max(low, lap), min(cut, lap + self.hole_from)) for lap in laps]
        pieces.append((max(low, cut), self.count))
        runs: list[tuple[int, int]] = []
        for first, end in pieces:
            if first >= end:
                continue
            if runs and runs[-1][1] == first:
                first = runs.pop()[0]
            runs.append((first, end))
        return runs
