"""Replay: one endless stream of rows per environment in memory-mapped files, sampled as windows [B, L].

Rows are stored as the environments' streams align them (``worldmodels/envs``). A row is what one step *led to*::

    episode                |<------------ episode i ------------>|<--- episode i+1 ---
    row t                     0       1       2     ...     n        n+1     n+2
    obs[t]                   o_0 ---> o_1 --> o_2 -> ... -> o_n      o_0 --> o_1
                                  ^       ^                               ^
    action[t]                 0   |a_0    |a_1    ...     a_n-1       0   |a_0        led INTO obs[t]
    reward[t]                 0   r_1     r_2     ...     r_n         0   r_1         for arriving in obs[t]
    is_first[t]               1       0       0     ...     0         1       0
    is_last[t]                0       0       0     ...     1         0       0       the episode ends in obs[t]
    is_terminal[t]            0       0       0     ...     0|1       0       0       ... really, not by a time limit

So ``action[:, t]`` is the action of the transition ``obs[:, t-1] -> obs[:, t]``; ``reward[:, t]`` and
``is_terminal[:, t]`` are what arriving in ``obs[:, t]`` gave. The row after ``is_last`` is the next episode's first,
whose action and reward are zero: there a recurrent state is cleared *before* the row is filtered.

A window may start anywhere, in mid-episode too, and its first row is then not an episode's first (``is_first`` stays
as recorded). What the model knows when the window starts is the **context**, ``prefix`` extra rows drawn in front::

    none      prefix 0   [ r r r r r ... ]            the first step counts as a reset
    burn_in   prefix K   [ b b b | r r r r r ... ]    K rows are only filtered, without loss, the first as a reset
    latent    prefix 1   [ m | r r r r r ... ]        the row's stored `memory.*` is the state the filter starts from

Stored latents are rewritten with what each update makes of the window's rows (:meth:`Replay.rewrite`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torchrl.data import ReplayBuffer

from worldmodels.common.columns import LATER_PREFIX, LATER_ROWS, MEMORY_PREFIX, PLACE, observed
from worldmodels.data.spans import Spans
from worldmodels.data.storage import MappedStorage, ReplayLayout, Spec, map_files, open_or_create, plan
from worldmodels.data.undo import UndoLog
from worldmodels.data.windows import Draw, WindowSampler, newest_starts
from worldmodels.errors import UserError

log = logging.getLogger(__name__)


class Replay:
    """A ring of rows per environment, on disk, that survives restarts and is sampled reproducibly.

    Rows of all environments are written in lockstep, so that the ring holds ``[time, env]``, the last ``capacity`` rows
    altogether (rounded up to a multiple of ``num_envs``). A folder that holds a replay already is opened, not emptied,
    and keeps the capacity it was made with.

    Args:
        directory: the folder, made with all its disk space where it is missing or empty.
        spec: key to (shape of one row, dtype); ``is_first`` and ``reward`` must be among them.
        limit_gib: refuse to plan more than this.
        cross_resets: whether windows may run from one episode into the next.
        newest_once: whether windows of the newest rows come before any that are drawn, each once.
        seed: of the ``generator`` that draws windows.

    Raises:
        UserError: more than the limit or the free disk space; a folder that is not this replay.
    """

    def __init__(
        self,
        directory: Path | str,
        spec: Spec,
        num_envs: int,
        capacity: int,
        limit_gib: int | float,
        cross_resets: bool = True,
        seed: int = 0,
        newest_once: bool = False,
    ):
        self.directory = Path(directory)
        self.layout = open_or_create(self.directory, plan(spec, num_envs, capacity), limit_gib)
        columns, self._ledger = map_files(self.directory, self.layout)
        self._columns, self._is_first = columns, columns["is_first"]
        self._episodes = Spans(self._ledger, num_envs, self._is_first)
        self.sampler = WindowSampler(Spans(self._ledger, num_envs) if cross_resets else self._episodes)
        self.sampler.newest_once = newest_once
        self.generator = torch.Generator().manual_seed(seed)
        self._buffer = ReplayBuffer(
            storage=MappedStorage(columns, self.directory), sampler=self.sampler, generator=self.generator
        )
        kept = [key for key in self.layout.spec if key.startswith(MEMORY_PREFIX)]
        self._latents = {key: self._buffer.storage.rows(key) for key in kept}
        self._undo = UndoLog(self.directory, self._latents) if kept else None

    @classmethod
    def open(cls, directory: Path | str, cross_resets: bool = True, seed: int = 0) -> Replay:
        """Open a recorded folder by what it says of itself."""
        layout = ReplayLayout.load(Path(directory) / "replay.json")
        return cls(directory, layout.spec, layout.num_envs, layout.rows, float("inf"), cross_resets, seed)

    def restrict(self, keys: Collection[str]) -> None:
        """Sample these columns only. The others stay where they are."""
        self._buffer.storage.restrict(keys)

    def extend(self, rows: Mapping[str, Shaped[Tensor, "N ..."]]) -> None:
        """Append one step of every environment. Keys that are not in the spec are left out."""
        self.extend_block({key: rows[key][None] for key in self.layout.spec})

    def extend_block(self, rows: Mapping[str, Shaped[Tensor, "T N ..."]]) -> None:
        """Append steps of every environment, one after another, all at once but where the ring begins anew."""
        left = {key: self._checked(key, rows[key]) for key in self.layout.spec}
        while total := len(left["is_first"]):
            begin = self._ledger.count % self.layout.steps
            count = min(total, self.layout.steps - begin)
            place = slice(begin * self.layout.num_envs, (begin + count) * self.layout.num_envs)
            self._ledger.begin(count)
            if self._undo is not None:
                self._undo.replaced(place)
            self._buffer.storage.write(place, {key: value[:count].flatten(0, 1) for key, value in left.items()})
            self._ledger.commit(count)
            left = {key: value[count:] for key, value in left.items()}

    def rewrite(self, place: Int64[Tensor, " R"], latents: Mapping[str, Shaped[Tensor, "R ..."]]) -> None:
        """Put newer latents (``memory.*``) into sampled rows, which :data:`PLACE` tells. Rows that are gone stay gone.

        Of a row that is given twice the first counts.
        """
        if latents.keys() != self._latents.keys():
            raise ValueError(f"latents are {sorted(self._latents)}, not {sorted(latents)}")
        number = place // self.layout.num_envs
        there = ((self.last_row - number) < self.layout.steps).nonzero().flatten()
        first = torch.from_numpy(np.unique(place[there].numpy(), return_index=True)[1])
        chosen = there[first]
        rows = number[chosen] % self.layout.steps * self.layout.num_envs + place[chosen] % self.layout.num_envs
        self._undo.keep(rows)
        for key, column in self._latents.items():
            column[rows] = latents[key][chosen]

    def trim(self) -> None:
        """Give back the disk space of rows that were never written, of a recording that is over. The last call of all.

        Killed on the way, it leaves files that were cut short behind their last row, which are read all the same.
        """
        layout = replace(self.layout, steps=max(1, self._ledger.count))
        if layout.steps < self.layout.steps:
            for key, size in layout.column_bytes().items():
                os.truncate(self.directory / f"{key}.memmap", size)
            layout.save(self.directory / "replay.json")

    def sample(self, batch_size: int, length: int, later: bool = False) -> dict[str, Shaped[Tensor, "B L ..."]]:
        """Copies of ``batch_size`` windows of ``length`` consecutive rows, uniform over the valid starts.

        A replay of latents says in :data:`PLACE` which rows they are. With ``later`` also the observations of one row
        of the episode behind each window, ``later_<key>`` [B, 1, ...], and how many rows that was drawn from,
        ``later_rows``.

        Raises:
            UserError: no stretch (or, without ``cross_resets``, no episode) is that long.
        """
        draw = self.draw(batch_size, length, later)
        return self.read_kept(draw) | self.read_latents(draw)

    def draw(self, batch_size: int, length: int, later: bool = False) -> Draw:
        """Choose the rows of a batch, as :meth:`sample` does."""
        self.sampler.slice_len = length
        index, _ = self.sampler.sample(self._buffer.storage, batch_size * length)
        position, env = (part.unflatten(0, (batch_size, length)) for part in index)
        draw = Draw(self.last_row - (self.last_row - position) % self.layout.steps, env)
        return draw.with_later(self._episodes, self.generator) if later else draw

    def read_kept(self, draw: Draw, pinned: bool = False) -> dict[str, Shaped[Tensor, "B ..."]]:
        """Return copies of what nothing changes as long as no row comes in: of all columns but stored latents.

        ``pinned``: in memory that a GPU reads by itself.
        """
        storage, steps = self._buffer.storage, self.layout.steps
        fixed = [key for key in storage.columns if key not in self._latents]
        found = dict(storage.get((draw.number % steps, draw.env), fixed, pinned).items())
        if draw.later is not None:
            place = draw.later[:, None] % steps, draw.env[:, -1:]
            seen = storage.get(place, observed(fixed), pinned).items()
            found |= {LATER_PREFIX + key: value for key, value in seen} | {LATER_ROWS: draw.left[:, None]}
        return found

    def read_latents(self, draw: Draw, pinned: bool = False) -> dict[str, Shaped[Tensor, "B L ..."]]:
        """Return stored latents, which :meth:`rewrite` changes, and where they lie."""
        storage, place = self._buffer.storage, draw.number * self.layout.num_envs + draw.env
        latents = [key for key in storage.columns if key in self._latents]
        found = dict(storage.get((draw.number % self.layout.steps, draw.env), latents, pinned).items())
        return found and found | {PLACE: place}

    def all_windows(self, length: int) -> dict[str, Shaped[Tensor, "W L ..."]]:
        """Return copies of all windows of ``length`` consecutive rows, each once.

        Raise ``UserError`` where there is none.
        """
        if not self.can_sample(length):
            raise UserError(f"{self.directory} has no window of {length} steps.")
        rows = self._buffer.storage.get(self.sampler.all_windows(length))
        return {key: value.unflatten(0, (-1, length)) for key, value in rows.items()}

    def episode_spans(self) -> list[tuple[int, int, int]]:
        """Stretches no window may leave, episodes without ``cross_resets``: (first row's number, rows, environment)."""
        return [(f, rows, env) for f, env, rows in zip(*(x.tolist() for x in self.sampler.spans()), strict=True)]

    def episode_lengths(self) -> list[int]:
        """Return the rows of each episode, or of what the ring has left of it, whatever ``cross_resets`` says."""
        return self._episodes()[2].tolist()

    @property
    def last_row(self) -> int:
        """Number of the newest row, the same in every environment. It is -1 before there is one."""
        return self._ledger.count - 1

    def episode_from(self, number: int, rows: int, env: int) -> dict[str, Shaped[Tensor, "L ..."]]:
        """Copies of up to ``rows`` rows of an environment from row ``number`` on, as far as its episode goes.

        None at all where the first was overwritten since.
        """
        end = next((end for first, end in self._ledger.runs() if first <= number < end), number)
        place = torch.arange(number, min(end, number + rows)) % self.layout.steps
        found = self._buffer.storage.get((place, torch.full_like(place, env)))
        begins = found["is_first"][1:].nonzero().flatten().tolist()
        return {key: value[: begins[0] + 1 if begins else None] for key, value in found.items()}

    def column(self, key: str) -> Shaped[Tensor, "R ..."]:
        """Copy what every valid row holds under a key."""
        place = torch.cat([torch.arange(first, end) for first, end in self._ledger.runs()]) % self.layout.steps
        return self._columns[key][place].flatten(0, 1)

    def newest_episodes(self, count: int, rows: int) -> dict[str, Shaped[Tensor, "N rows ..."]] | None:
        """Copies of the first ``rows`` rows of the newest episodes, at most ``count``, that have as many. Else None."""
        first, env = newest_starts(self._episodes, count, rows)
        if not len(first):
            return None
        place = (first[:, None] + torch.arange(rows)) % self.layout.steps
        return dict(self._buffer.storage.get((place, env[:, None].expand_as(place))).items())

    def can_sample(self, length: int) -> bool:
        """Return whether there is at least one window of ``length`` rows."""
        return self.sampler.valid_starts(length) > 0

    def __len__(self) -> int:
        """Valid rows of all environments together."""
        return sum(end - first for first, end in self._ledger.runs()) * self.layout.num_envs

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the files, which stay where they are: plain numbers and one tensor.

        From here on it is logged what stored latents were before they are rewritten.
        """
        counted = {"count": self._ledger.count, "rows": len(self), **self.sampler.state_dict()}
        return counted if self._undo is None else counted | {"undo": self._undo.mark()}

    def checkpointed(self) -> None:
        """Say that what :meth:`state_dict` returned last is safe on the disk."""
        if self._undo is not None:
            self._undo.settle()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint: later rows are forgotten, and so are earlier ones that they have overwritten.

        Until the ring has wrapped since the checkpoint nothing else is lost and sampling goes on bit for bit.

        Raises:
            UserError: the checkpoint counts rows that were never written here.
        """
        if state["count"] > self._ledger.high:
            raise UserError(
                f"The checkpoint counts {state['count']:,} steps and {self.directory} has only seen "
                f"{self._ledger.high:,}: they are not of one run, or files were lost; start a new run."
            )
        if self._undo is not None and not self._undo.rewind(state.get("undo", 0)):
            log.warning("replay: stored latents are newer than the checkpoint: the run goes on, but not bit for bit")
        later = self._ledger.count - state["count"]
        self._ledger.rewind(state["count"])
        self._episodes.forget()
        self.sampler.spans.forget()
        self.sampler.load_state_dict(state)
        lost = state["rows"] - len(self)
        if later > 0:
            log.info("replay: %d rows newer than the checkpoint are dropped", later * self.layout.num_envs)
        if lost > 0:
            log.warning(
                "replay: %d of the checkpoint's %d rows have been lost or overwritten since", lost, state["rows"]
            )

    def _checked(self, key: str, value: Tensor) -> Tensor:
        shape, dtype = self.layout.spec[key]
        if value.shape[1:] != (self.layout.num_envs, *shape) or value.dtype != dtype:
            raise ValueError(
                f"{key} must be {dtype} {(self.layout.num_envs, *shape)}, not {value.dtype} {tuple(value.shape[1:])}"
            )
        return value
