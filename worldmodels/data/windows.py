"""Where windows and episodes lie among the rows. Windows are drawn uniformly over every valid start.

They run across resets or stay within one episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torchrl.data.replay_buffers import Sampler, Storage

from worldmodels.data.spans import Spans
from worldmodels.errors import UserError

LOOK_AHEAD = 1024
"""Rows in which the end of an episode is looked for at a time."""


@dataclass(frozen=True)
class Draw:
    """Rows that a batch holds.

    Attributes:
        number, env: of each window's rows, [B, L].
        later, left: number of one row behind each window, and how many it was drawn from, [B]. None: none was drawn.
    """

    number: Int64[Tensor, "B L"]
    env: Int64[Tensor, "B L"]
    later: Int64[Tensor, " B"] | None = None
    left: Int64[Tensor, " B"] | None = None

    def with_later(self, episodes: Spans, generator: torch.Generator) -> Draw:
        """Return it with a row for each window, drawn from those of the episode behind it. None: its last."""
        runs, ends = episodes.ledger.runs(), zip(self.number[:, -1].tolist(), self.env[:, -1].tolist(), strict=True)
        left = torch.tensor([rows_left(runs, episodes.is_first, *end) for end in ends])
        share = torch.rand(len(left), generator=generator)
        return replace(self, later=self.number[:, -1] + (1 + (share * left).long()).clamp(max=left), left=left)


def rows_left(runs: list[tuple[int, int]], is_first: Bool[Tensor, "S E"], number: int, env: int) -> int:
    """Rows of an environment behind row ``number`` that belong to its episode."""
    steps = is_first.shape[0]
    end = next(end for first, end in runs if first <= number < end)
    for begin in range(number + 1, end, LOOK_AHEAD):
        place = torch.arange(begin, min(end, begin + LOOK_AHEAD)) % steps
        if len(found := is_first[place, env].nonzero()):
            return begin + int(found[0]) - number - 1
    return end - number - 1


def newest_starts(episodes: Spans, count: int, rows: int) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " N"]]:
    """(first row number, environment) of the newest episodes, at most ``count``, whose first ``rows`` rows are kept."""
    first, env, length = episodes()
    whole = (length >= rows) & episodes.is_first[first % episodes.ledger.steps, env]
    newest = first[whole].argsort()[-count:]
    return first[whole][newest], env[whole][newest]


class WindowSampler(Sampler):
    """Draws windows of ``slice_len`` consecutive rows of one environment, every valid start equally likely.

    It stands in for TorchRL's ``SliceSampler``, which after reloading forgets the write cursor (windows then join the
    newest row to the oldest), cannot leave out overwritten rows, draws *episodes* uniformly instead of starts, and
    reads every batch twice.
    """

    def __init__(self, spans: Spans):
        self.spans, self.ledger = spans, spans.ledger
        self.slice_len = 1
        self.newest_once = False
        """Whether windows of the newest rows come before any that are drawn, each once (DreamerV3's online queue)."""
        self.taken = 0
        """How many of those came."""

    def valid_starts(self, length: int) -> int:
        """How many windows of ``length`` rows there are."""
        return int((self.spans()[2] - length + 1).clamp_min(0).sum())

    def all_windows(self, length: int) -> tuple[Int64[Tensor, " R"], Int64[Tensor, " R"]]:
        """(position in the ring, environment) of the rows of every window of ``length`` rows, window after window."""
        first, env, rows = self.spans()
        counts = (rows - length + 1).clamp_min(0)
        start = torch.cat([begin + torch.arange(n) for begin, n in zip(first, counts.tolist(), strict=True)])
        time = (start[:, None] + torch.arange(length)) % self.ledger.steps
        return time.flatten(), env.repeat_interleave(counts).repeat_interleave(length)

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """(position in the ring, environment) of ``batch_size`` rows, window after window."""
        first, env, rows = self.spans()
        ends = (rows - self.slice_len + 1).clamp_min(0).cumsum(0)
        if not ends.numel() or not ends[-1]:
            longest = int(rows.max()) if rows.numel() else 0
            stretch = "stretch" if self.spans.is_first is None else "episode (`data.cross_resets=false`)"
            raise UserError(
                f"The replay has no window of {self.slice_len} steps: its longest {stretch} has {longest} and it keeps "
                f"at most {self.ledger.steps} per environment; collect more first (`prefill`), raise `data.capacity`, "
                "or use shorter windows."
            )
        windows = batch_size // self.slice_len
        newest = self._newest(windows) if self.newest_once else []
        draw = torch.randint(int(ends[-1]), (windows - len(newest),), generator=self._rng)
        chosen = torch.searchsorted(ends, draw, right=True)
        start = first[chosen] + (draw - ends[chosen] + (rows[chosen] - self.slice_len + 1))
        newest = torch.tensor(newest, dtype=torch.int64).view(-1, 2)
        start, env = torch.cat([newest[:, 0], start]), torch.cat([newest[:, 1], env[chosen]])
        time = (start[:, None] + torch.arange(self.slice_len)) % self.ledger.steps
        return (time.flatten(), env.repeat_interleave(self.slice_len)), {}

    def _newest(self, most: int) -> list[tuple[int, int]]:
        """(first row number, environment) of windows that nobody was given yet, side by side from row 1 on.

        From row 1, as in DreamerV3's code. Those whose rows are gone are left out.
        """
        found, runs = [], self.ledger.runs()
        while len(found) < most:
            turn, env = divmod(self.taken, self.spans.num_envs)
            begin = 1 + turn * self.slice_len
            if begin + self.slice_len > self.ledger.count:
                break
            self.taken += 1
            if any(first <= begin and begin + self.slice_len <= end for first, end in runs):
                found.append((begin, env))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what the next draw depends on beside the rows."""
        return {"generator": self._rng.get_state(), "taken": self.taken}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Draw again what was drawn since."""
        self._rng.set_state(state_dict["generator"])
        self.taken = state_dict["taken"]

    def dumps(self, path: Any) -> None:
        """Write nothing, as nothing is saved."""

    def loads(self, path: Any) -> None:
        """Read nothing, as nothing is saved."""

    def _empty(self) -> None:
        self.spans.forget()
