"""Stretches of rows that no window may leave, kept as rows come and go: each row is looked at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from worldmodels.data.ledger import Ledger

Stretches = tuple[Int64[Tensor, " G"], Int64[Tensor, " G"], Int64[Tensor, " G"]]
"""(first row number, environment, number of rows) of each: unbroken runs in turn, environment after environment."""


class Spans:
    """The stretches of what a ledger calls valid.

    They are whole runs of rows; with ``is_first``, the ring's column [position, environment], they are episodes: one
    begins at every such row, so that one cut off by an interruption ends where the next begins.
    """

    def __init__(self, ledger: Ledger, num_envs: int, is_first: Bool[Tensor, "S E"] | None = None):
        self.ledger, self.num_envs, self.is_first = ledger, num_envs, is_first
        self.forget()

    def forget(self) -> None:
        """Look at all rows anew: some of those that were seen are others now."""
        self._seen = 0  # rows below this number were looked at
        # Row numbers at which episodes begin, environment after environment, each behind a -1.
        self._begins, self._envs = np.full(self.num_envs, -1), np.arange(self.num_envs)
        self._last = np.arange(self.num_envs)  # where each environment's newest stands
        self._runs: list[tuple[int, int]] | None = None

    def __call__(self) -> Stretches:
        """Return the present stretches."""
        runs = self.ledger.runs()
        if runs != self._runs:
            if self.ledger.count < self._seen:
                self.forget()
            if self.is_first is not None and runs:
                self._look_at_new_rows(runs)
            self._runs, self._found = runs, self._stretches(runs)
        return self._found

    def _look_at_new_rows(self, runs: list[tuple[int, int]]) -> None:
        steps = self.is_first.shape[0]
        numbers = torch.cat([torch.arange(max(first, self._seen), max(end, self._seen)) for first, end in runs])
        new, env = (found.numpy() for found in self.is_first[numbers % steps].nonzero(as_tuple=True))
        self._seen = runs[-1][1]
        if not len(new):
            return
        begins = np.insert(self._begins, self._last[env] + 1, numbers.numpy()[new])
        envs = np.insert(self._envs, self._last[env] + 1, env)
        kept = (begins < 0) | (begins > runs[0][0])
        self._begins, self._envs = begins[kept], envs[kept]
        self._last = np.searchsorted(self._envs, np.arange(self.num_envs), side="right") - 1

    def _stretches(self, runs: list[tuple[int, int]]) -> Stretches:
        parts = [np.zeros((3, 0), np.int64)]
        for begin, end in runs:
            first = self._begins.clip(begin, end)
            stop = np.roll(first, -1)
            stop[self._last] = end
            found = np.stack([first, self._envs, stop - first])
            parts.append(found[:, found[2] > 0])  # what begins before a run, or behind it, has no row in it
        return tuple(torch.from_numpy(np.concatenate(parts, axis=1)))
