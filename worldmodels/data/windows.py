"""Where windows and episodes lie among the rows. Windows are drawn uniformly over every valid start.

They run across resets or stay within one episode.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torchrl.data.replay_buffers import Sampler, Storage

from worldmodels.data.storage import Ledger
from worldmodels.errors import UserError

LOOK_AHEAD = 1024
"""Rows in which the end of an episode is looked for at a time."""


def episode_spans(
    runs: list[tuple[int, int]], num_envs: int, is_first: Bool[Tensor, "S E"] | None
) -> tuple[Int64[Tensor, " G"], Int64[Tensor, " G"], Int64[Tensor, " G"]]:
    """Stretches no window may leave: (first row number, environment, number of rows) of each.

    ``is_first`` is the ring's column [position, environment] where windows must stay within one episode: an episode
    begins at every such row, so that one cut off by an interruption ends where the next begins. None: whole runs.
    """
    firsts, envs, lengths = [], [], []
    for begin, end in runs:
        starts = torch.zeros(num_envs, end - begin, dtype=torch.bool)
        if is_first is not None:
            starts = is_first[torch.arange(begin, end) % is_first.shape[0]].T.contiguous()
        starts[:, 0] = True
        env, offset = starts.nonzero(as_tuple=True)
        # The next start of the same environment, or the run's end, closes a segment.
        stop = torch.cat([offset[1:], offset.new_zeros(1)])
        stop = torch.where(stop == 0, end - begin, stop)
        firsts.append(begin + offset)
        envs.append(env)
        lengths.append(stop - offset)
    empty = torch.zeros(0, dtype=torch.int64)
    return torch.cat([empty, *firsts]), torch.cat([empty, *envs]), torch.cat([empty, *lengths])


def rows_left(runs: list[tuple[int, int]], is_first: Bool[Tensor, "S E"], number: int, env: int) -> int:
    """Rows of an environment behind row ``number`` that belong to its episode."""
    steps = is_first.shape[0]
    end = next(end for first, end in runs if first <= number < end)
    for begin in range(number + 1, end, LOOK_AHEAD):
        place = torch.arange(begin, min(end, begin + LOOK_AHEAD)) % steps
        if len(found := is_first[place, env].nonzero()):
            return begin + int(found[0]) - number - 1
    return end - number - 1


def newest_starts(
    runs: list[tuple[int, int]], is_first: Bool[Tensor, "S E"], count: int, rows: int
) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " N"]]:
    """(first row number, environment) of the newest episodes, at most ``count``, whose first ``rows`` rows are kept."""
    steps, num_envs = is_first.shape
    first, env, length = episode_spans(runs, num_envs, is_first)
    whole = (length >= rows) & is_first[first % steps, env]
    newest = first[whole].argsort()[-count:]
    return first[whole][newest], env[whole][newest]


class WindowSampler(Sampler):
    """Draws windows of ``slice_len`` consecutive rows of one environment, every valid start equally likely.

    It stands in for TorchRL's ``SliceSampler``, which after reloading forgets the write cursor (windows then join the
    newest row to the oldest), cannot leave out overwritten rows, draws *episodes* uniformly instead of starts, and
    reads every batch twice.
    """

    def __init__(self, ledger: Ledger, num_envs: int, is_first: Bool[Tensor, "S E"] | None):
        self.ledger = ledger
        self.num_envs = num_envs
        self.is_first = is_first
        self.slice_len = 1
        self.newest_once = False
        """Whether windows of the newest rows come before any that are drawn, each once (DreamerV3's online queue)."""
        self.taken = 0
        """How many of those came."""
        self._known: tuple[list[tuple[int, int]], tuple[Tensor, Tensor, Tensor]] | None = None

    def episode_spans(self) -> tuple[Int64[Tensor, " G"], Int64[Tensor, " G"], Int64[Tensor, " G"]]:
        """The current segments, found again only where rows came or went."""
        runs = self.ledger.runs()
        if self._known is None or self._known[0] != runs:
            self._known = runs, episode_spans(runs, self.num_envs, self.is_first)
        return self._known[1]

    def valid_starts(self, length: int) -> int:
        """How many windows of ``length`` rows there are."""
        return int((self.episode_spans()[2] - length + 1).clamp_min(0).sum())

    def all_windows(self, length: int) -> tuple[Int64[Tensor, " R"], Int64[Tensor, " R"]]:
        """(position in the ring, environment) of the rows of every window of ``length`` rows, window after window."""
        first, env, rows = self.episode_spans()
        counts = (rows - length + 1).clamp_min(0)
        start = torch.cat([begin + torch.arange(n) for begin, n in zip(first, counts.tolist(), strict=True)])
        time = (start[:, None] + torch.arange(length)) % self.ledger.steps
        return time.flatten(), env.repeat_interleave(counts).repeat_interleave(length)

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """(position in the ring, environment) of ``batch_size`` rows, window after window."""
        first, env, rows = self.episode_spans()
        ends = (rows - self.slice_len + 1).clamp_min(0).cumsum(0)
        if not ends.numel() or not ends[-1]:
            longest = int(rows.max()) if rows.numel() else 0
            stretch = "stretch" if self.is_first is None else "episode (`data.cross_resets=false`)"
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
            turn, env = divmod(self.taken, self.num_envs)
            begin = 1 + turn * self.slice_len
            if begin + self.slice_len > self.ledger.count:
                break
            self.taken += 1
            if any(first <= begin and begin + self.slice_len <= end for first, end in runs):
                found.append((begin, env))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the ledger and the generator are saved by their owner."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load nothing, as nothing is saved."""

    def dumps(self, path: Any) -> None:
        """Write nothing, as nothing is saved."""

    def loads(self, path: Any) -> None:
        """Read nothing, as nothing is saved."""

    def _empty(self) -> None:
        self._known = None
