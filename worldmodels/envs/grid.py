"""A maze as cells: which are free, where they lie, and how far they are from one another on foot."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

WALL = 1


class Grid:
    """Cells of side 1 around the origin, as gymnasium-robotics lays them out: row 0 has the largest y.

    Args:
        rows: a list of rows. 1 is a wall, everything else is free.
    """

    def __init__(self, rows: Sequence[Sequence[int | str]]) -> None:
        self.free = np.array([[cell != WALL for cell in row] for row in rows])
        self.cells = [tuple(map(int, cell)) for cell in np.argwhere(self.free)]
        self._index = {cell: i for i, cell in enumerate(self.cells)}
        self._distance = np.stack([self._from(cell) for cell in self.cells])

    def center(self, cell: tuple[int, int]) -> np.ndarray:
        """(x, y) of a cell's middle."""
        height, width = self.free.shape
        return np.array([cell[1] + 0.5 - width / 2, height / 2 - cell[0] - 0.5])

    def cell_at(self, xy: np.ndarray) -> tuple[int, int]:
        """The free cell that a point lies in, or the nearest."""
        centers = np.stack([self.center(cell) for cell in self.cells])
        return self.cells[int(np.square(centers - np.asarray(xy)).sum(1).argmin())]

    def distance(self, a: tuple[int, int], b: tuple[int, int]) -> int:
        """Steps between two cells through free ones."""
        return int(self._distance[self._index[a], self._index[b]])

    def pairs(self, least: int, most: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Ordered pairs of cells that lie between ``least`` and ``most`` steps apart."""
        near = (self._distance >= least) & (self._distance <= most)
        return [(self.cells[i], self.cells[j]) for i, j in np.argwhere(near)]

    def towards(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        """Return the next cell on a shortest way from ``a`` to ``b``. It is ``b`` itself once there."""
        if a == b:
            return b
        return min(self._neighbors(a), key=lambda cell: self.distance(cell, b))

    def _from(self, start: tuple[int, int]) -> np.ndarray:
        """Steps from one cell to all, by breadth-first search."""
        steps, waiting = {start: 0}, deque([start])
        while waiting:
            cell = waiting.popleft()
            for neighbor in self._neighbors(cell):
                if neighbor not in steps:
                    steps[neighbor] = steps[cell] + 1
                    waiting.append(neighbor)
        return np.array([steps.get(cell, len(self.cells) ** 2) for cell in self.cells])

    def _neighbors(self, cell: tuple[int, int]) -> list[tuple[int, int]]:
        around = [(cell[0] + i, cell[1] + j) for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        return [other for other in around if other in self._index]
