"""Where episodes begin and end in rows that hold several, by whatever name the field's libraries say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from worldmodels.data.readers.base import optional_column, require_kind
from worldmodels.errors import UserError

FIRST = ("is_first",)
"""True in an episode's first row."""
LAST = ("is_last",)
"""True in an episode's last row, whyever it ended."""
TERMINAL = ("is_terminal", "terminals", "terminal", "terminated", "terminateds", "terminations")
"""True where an episode ended for good."""
TIMEOUT = ("timeouts", "timeout", "truncations", "truncation", "truncated", "truncateds")
"""True where time ran out."""
DONE = ("dones", "done")
"""True where an episode ended. Alone they do not say whether time ran out."""
DISCOUNT = ("discount", "discounts")
"""Zero where an episode ended for good."""
STEP_TYPE = "step_type"
"""dm_env's: 0 in an episode's first row, 2 in its last."""
UNSAID = "'done' alone does not say whether time ran out: every end is taken as one for good"
FILLED = "a discount of 0 in the first row of an episode, where none ends yet, is taken as a filler"
FLAGS = (*FIRST, *LAST, *TERMINAL, *TIMEOUT, *DONE, *DISCOUNT, STEP_TYPE)


@dataclass(frozen=True)
class Ends:
    """What the flags of a file say of each row."""

    first: Bool[np.ndarray, " N"] | None
    """Whether an episode begins there; None where no field says so."""
    terminal: Bool[np.ndarray, " N"] | None
    """Whether one ended for good there; None where no field says so."""
    cut: Bool[np.ndarray, " N"] | None
    """Whether one ended there, or the recording of it; None where fields tell of ends for good alone, or of none."""
    count: int
    """Number of rows."""
    notes: tuple[str, ...] = ()

    @property
    def over(self) -> Bool[np.ndarray, " N"]:
        """Whether an episode ended there, in whatever way."""
        never = np.zeros(self.count, bool)
        return np.logical_or.reduce([never if flag is None else flag for flag in (self.terminal, self.cut)])

    def terminal_at(self, row: int) -> bool:
        """Return whether an episode ended for good in that row."""
        return self.terminal is not None and bool(self.terminal[row])

    def spans(self) -> Iterator[tuple[int, int, bool]]:
        """Yield the episodes: first row, one more than the last row, and whether it ended there."""
        over = self.over
        starts = np.append(True, over[:-1])
        begins = np.flatnonzero(starts if self.first is None else starts | self.first).tolist()
        for begin, end in zip(begins, [*begins[1:], len(over)], strict=True):
            yield begin, end, bool(over[end - 1]) or self.cut is None


def find_ends(path: Path, columns: Mapping[str, Any], count: int) -> Ends:
    """Read the flags among ``columns``, each of ``count`` rows.

    Raises:
        UserError: a flag has another number of rows or is neither 0 nor 1; ``step_type`` does not begin with 0.
    """
    first, last, terminal, timeout, done = (
        _any_of(path, columns, names, count) for names in (FIRST, LAST, TERMINAL, TIMEOUT, DONE)
    )
    notes: tuple[str, ...] = ()
    step = flag_values(path, columns, STEP_TYPE, count, (0, 1, 2))
    if step is not None:
        if step[0] != 0:
            raise UserError(f"{path}: 'step_type' must be 0 in the first row of each episode, and is not in row 0.")
        first, last = (step == 0) | (first is not None and first), (step == 2) | (last is not None and last)
    for name in DISCOUNT:
        if (discount := flag_values(path, columns, name, count, None)) is not None:
            begins = (np.arange(count) == 0) | (first is not None and first)
            notes += (FILLED,) if (begins & (discount == 0)).any() else ()
            terminal = ((discount == 0) & ~begins) | (False if terminal is None else terminal)
    if terminal is None and done is not None:
        terminal = done & ~timeout if timeout is not None else done
        if timeout is None:
            notes += (UNSAID,)
    cuts = [flag for flag in (last, timeout, done) if flag is not None]
    return Ends(first, terminal, np.logical_or.reduce(cuts) if cuts else None, count, notes)


def flag_values(
    path: Path, columns: Mapping[str, Any], name: str, count: int, allowed: tuple[int, ...] | None = (0, 1)
) -> np.ndarray | None:
    """Return a field of a number a row, or None. What fills row 0 need not be one: no episode ends there.

    Raises:
        UserError: it is text, or holds what is not ``allowed``, where that is given.
    """
    value = optional_column(path, columns, name, count)
    if value is None:
        return None
    require_kind(path, name, value)
    bad = np.flatnonzero(~np.isfinite(value))
    if len(bad) and bad[-1] > 0:
        raise UserError(f"{path}: field {name!r} holds numbers that are not finite, first in row {bad[bad > 0][0]}.")
    value = np.where(np.isfinite(value), value, 1 if name in DISCOUNT else 0)
    odd = np.flatnonzero(~np.isin(value, value if allowed is None else allowed))
    if len(odd):
        raise UserError(f"{path}: field {name!r} is {value[odd[0]]:g} in row {odd[0]}, and may be one of {allowed}.")
    return value


def _any_of(path: Path, columns: Mapping[str, Any], names: tuple[str, ...], count: int) -> np.ndarray | None:
    found = [value.astype(bool) for name in names if (value := flag_values(path, columns, name, count)) is not None]
    return np.logical_or.reduce(found) if found else None
