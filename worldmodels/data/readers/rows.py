"""Rows of named fields, out of whatever file, as episodes: of the two layouts that the field's libraries write.

In the layout of Dreamer and V-D4RL (``action``, ``reward``) a row holds what led into it; in D4RL's (``actions``,
``rewards``) what was done in it, and earned by that. Flags cut both into episodes (``ends.py``).
What is assumed, and refused otherwise: fields are arrays of as many rows each, flags are 0 or 1, one number a row of
rewards, flags and skills, and observations that do not change their shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from worldmodels.data.readers.base import (
    SKILL,
    Recording,
    as_frames,
    optional_column,
    recording,
    require_fields,
    require_kind,
    require_rows,
)
from worldmodels.data.readers.ends import FIRST, FLAGS, STEP_TYPE, find_ends
from worldmodels.errors import UserError, shown

CHANNELS_LAST = "image"
"""Field of frames [T, H, W, C]."""
FRAMES = ("observation", "pixels", CHANNELS_LAST)
"""Fields of frames in the first layout; of several the first is read. The other two are [T, C, H, W]."""
ARRIVALS = (*FRAMES, "state", "action", "reward", SKILL, *FLAGS)
"""Fields that are read of the first layout."""
DEPARTURES = ("observations", "actions", "rewards", "next_observations", SKILL, *FLAGS)
"""Fields that are read of the second layout."""
KNOWN = {*ARRIVALS, *DEPARTURES}
"""Fields that are read of some layout."""
MEASURED = 10**7
"""Numbers that are looked at, at most, to see whether rows follow each other."""
GOES_ON = "rows with 'terminals' do not end a trajectory, as in AntMaze and Maze2d: the row behind them goes on"
REPEATED = (
    "there are no next_observations: the last observation of an episode is repeated where its last action earned "
    "something or ended it"
)
MOVED = (
    "first actions of episodes are not zero, so actions are those taken at their row, as in DreamerV3's chunks: they "
    "are moved one row on"
)
EARNED = (
    "first rewards are not zero and last ones are, so they were earned at their row, as in RLDS: they are moved too"
)
UNSURE = (
    "the first action is not zero and nothing says that an episode begins there: actions are taken as those that led "
    "into their row"
)
UNCUT = (
    "only ends for good are told, not where time ran out: episodes that it cut may be read as one, so write is_last or "
    "is_first"
)
PIECE = "rows before the first 'is_first' are read as an episode of their own"


def read_rows(
    path: Path,
    columns: Mapping[str, Any],
    names: Iterable[str],
    siblings: Callable[[], Iterator[Mapping[str, Any]]] = lambda: iter(()),
) -> Iterator[Recording]:
    """Yield the episodes of a file.

    Args:
        columns: its fields, as arrays or what can be sliced into arrays.
        names: all that it has, also what is not among ``columns``.
        siblings: the fields of other files of the same kind, for what this one does not say.

    Raises:
        UserError: naming file and field, where something is missing or of another shape.
    """
    names = sorted(names)
    if "observations" in names:
        yield from departures(path, columns, unread(names, DEPARTURES))
    else:
        yield from _arrivals(path, columns, names, siblings)


def unread(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return a note that names the fields nobody reads, if there are any."""
    extra = sorted(set(names) - set(known))
    return (f"fields that are not read: {shown(extra)}",) if extra else ()


def _arrivals(
    path: Path, columns: Mapping[str, Any], names: list[str], siblings: Callable[[], Iterator[Mapping[str, Any]]]
) -> Iterator[Recording]:
    """Read rows whose ``reward`` was earned, and whose ``action`` was taken, on the way into them.

    Actions that were taken at their row instead (:func:`taken_at`) are moved.
    """
    rows = require_fields(path, columns, ("action", "reward"), names)
    frames = next((name for name in FRAMES if name in columns), None)
    count = len(rows["action"])
    seen = _seen(path, columns, names, frames, count)
    skill = optional_column(path, columns, SKILL, count)
    ends = find_ends(path, columns, count)
    notes = ends.notes + unread(names, {*ARRIVALS} - {name for name in FRAMES if name != frames})
    at = taken_at(columns)
    if at is None and ends.first is not None:
        at = next((answer for other in siblings() if (answer := taken_at(other)) is not None), None)
    spans = list(ends.spans())
    earned_at = bool(at) and _earned_at(rows["reward"], spans, ends.first)
    if at:
        notes += (MOVED, EARNED) if earned_at else (MOVED,)
    elif at is None and _acts(rows["action"][:1]):
        notes += (UNSURE,)
    if ends.first is not None and not ends.first[0]:
        notes += (PIECE,)
    if ends.first is None and ends.cut is None and ends.terminal is not None:
        notes += (UNCUT,)
    for begin, end, finished in spans:
        part = slice(begin, end)
        observed = {key: np.asarray(value[part]) for key, value in seen.items()}
        if frames == CHANNELS_LAST:
            observed["pixels"] = as_frames(observed["pixels"])
        action, reward = (np.asarray(rows[key][part]) for key in ("action", "reward"))
        yield recording(
            f"{path}, rows {begin} to {end - 1}",
            observed,
            _moved_on(action) if at else action,
            _moved_on(reward) if earned_at else reward,
            ends.terminal_at(end - 1),
            None if skill is None else skill[part],
            finished,
            notes,
        )


def _moved_on(rows: np.ndarray) -> np.ndarray:
    """Return each row in the place of the one behind it, and zeros in the first."""
    return np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])


def _earned_at(reward: Any, spans: list[tuple[int, int, bool]], first: Bool[np.ndarray, " N"] | None) -> bool:
    """Return whether rewards stand in the row of the action that earned them: some first one is not 0, all last are."""
    begun = [begin for begin, _, _ in spans if first is None or first[begin]]
    ended = [end - 1 for _, end, finished in spans if finished]
    return bool(ended) and _acts(np.asarray(reward)[begun]) and not _acts(np.asarray(reward)[ended])


def _acts(action: Any) -> bool:
    """Return whether some of these are numbers other than zero."""
    action = np.asarray(action)
    return action.dtype.kind in "biuf" and bool((np.isfinite(action) & (action != 0)).any())


def taken_at(columns: Mapping[str, Any]) -> bool | None:
    """Return whether actions stand in the row they were taken at: some episode's first action is not zero.

    What fills first rows may be no number. None where no row is flagged as an episode's first.
    """
    flag = next((columns[name] for name in FIRST if name in columns), None)
    flag = np.asarray(columns[STEP_TYPE]) == 0 if flag is None and STEP_TYPE in columns else flag
    if flag is None or "action" not in columns:
        return None
    flag = np.ravel(np.asarray(flag))
    if flag.dtype.kind not in "biuf" or not getattr(columns["action"], "shape", None):
        return None  # that file's own reading says what is wrong
    first = np.isfinite(flag) & (flag != 0)
    if len(first) != len(columns["action"]) or not first.any():
        return None
    return _acts(np.asarray(columns["action"])[first])


def _seen(path: Path, columns: Mapping[str, Any], names: list[str], frames: str | None, count: int) -> dict[str, Any]:
    """Return the fields that hold frames and numbers."""
    found = {key: name for key, name in (("pixels", frames), ("state", "state")) if name in columns}
    if not found:
        raise UserError(
            f"{path} has no field 'observation', 'image' or 'state', only {shown(names)}: nothing is observed in it."
        )
    for name in found.values():
        require_rows(path, name, columns[name], count)
    return {key: columns[name] for key, name in found.items()}


def departures(path: Path, columns: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Iterator[Recording]:
    """Read rows whose ``actions`` led on from their ``observations``, and earned their ``rewards``.

    Where each led is in ``next_observations``, else in the row behind, whatever ``terminals`` say, unless time ran out
    (D4RL's own reading). What the last row of an episode earned, and its end, are kept: its observation is repeated.
    """
    rows = require_fields(path, columns, ("observations", "actions", "rewards"))
    rows = {key: np.asarray(value) for key, value in rows.items()}
    count = len(rows["observations"])
    rows["rewards"] = optional_column(path, rows, "rewards", count)
    led = optional_column(path, columns, "next_observations", count, flat=False)
    for key, value in {**rows, **({} if led is None else {"next_observations": led})}.items():
        require_kind(path, key, value)
    if led is not None and led.shape != rows["observations"].shape:
        told = f"{led.shape}, where 'observations' are of shape {rows['observations'].shape}"
        raise UserError(f"{path}: field 'next_observations' is of shape {told}: both must be alike.")
    skill = optional_column(path, columns, SKILL, count)
    ends = find_ends(path, columns, count)
    if ends.cut is None and (led is None or ends.terminal is None):
        raise UserError(
            f"{path} has no field {'terminals' if ends.terminal is None else 'timeouts'!r}, only "
            f"{shown(sorted(columns))}: it does not say where episodes end."
        )
    over, notes = ends.over, notes + ends.notes
    if ends.cut is None:
        same = (led[:-1] == rows["observations"][1:]).all(axis=tuple(range(1, led.ndim)))
        over = over | np.append(~same, False)
    elif led is None and goes_on(rows["observations"], over & ~ends.cut, over):
        over, notes = ends.cut, (*notes, GOES_ON)
    begin = 0
    for end in sorted({*(np.flatnonzero(over) + 1).tolist(), count}):
        part = slice(begin, end)
        yield departed(
            f"{path}, rows {begin} to {end - 1}",
            {"pixels" if is_frames(rows["observations"]) else "state": rows["observations"][part]},
            rows["actions"][part],
            rows["rewards"][part],
            ends.terminal_at(end - 1),
            bool(over[end - 1]) or ends.terminal_at(end - 1),
            None if led is None else led[end - 1 : end],
            None if skill is None else skill[part],
            notes,
        )
        begin = end


def is_frames(value: np.ndarray) -> bool:
    """Return whether these are images, not numbers."""
    return value.dtype == np.uint8 and value.ndim == 4


def departed(
    source: str,
    seen: Mapping[str, np.ndarray],
    action: np.ndarray,
    reward: np.ndarray,
    terminal: bool,
    finished: bool,
    led: np.ndarray | None = None,
    skill: np.ndarray | None = None,
    notes: tuple[str, ...] = (),
) -> Recording:
    """Move one row on what each row did and earned.

    ``led`` is what the last action led to, [1, ...]. Without it that is not known: the last observation is repeated
    where that action earned something or ended the episode, and else the action is left out.
    """
    reward = np.ravel(reward)
    if led is not None:
        (key,) = seen
        seen = {key: np.concatenate([seen[key], led])}
    elif terminal or reward[-1] != 0:
        seen = {key: np.concatenate([value, value[-1:]]) for key, value in seen.items()}
        notes = (*notes, REPEATED)
    else:
        action, reward = action[:-1], reward[:-1]
    if skill is not None:
        skill = np.concatenate([skill[:1], skill])[: len(action) + 1]
    pixels = seen.get("pixels")
    if pixels is not None and pixels.shape[-1] <= min(pixels.shape[1:3]) and pixels.shape[-1] in (1, 3):
        seen = {**seen, "pixels": as_frames(pixels)}
    return recording(
        source,
        dict(seen),
        np.concatenate([np.zeros_like(action, shape=(1, *action.shape[1:])), action]),
        np.concatenate([[0.0], reward]),
        terminal,
        skill,
        finished,
        notes,
    )


def goes_on(seen: np.ndarray, inner: Bool[np.ndarray, " N"], over: Bool[np.ndarray, " N"]) -> bool:
    """Return whether the rows behind ``inner`` ones follow them no further off than others follow theirs.

    A step is measured by its largest number, each in units of its own spread over ordinary steps. Rows follow where the
    median step behind ``inner`` ones is within 95 % of the ordinary ones.
    """
    most = max(100, MEASURED // max(1, seen[0].size))
    inner, ordinary = (np.flatnonzero(rows[:-1]) for rows in (inner, ~over))
    if not len(inner) or not len(ordinary):
        return False
    numbers = seen.reshape(len(seen), -1)
    steps, base = (
        np.abs(numbers[rows + 1].astype(np.float64) - numbers[rows])
        for rows in (where[:: -(-len(where) // most)] for where in (inner, ordinary))
    )
    spread = base.mean(0) + base.std(0) + 1e-12
    return bool(np.median((steps / spread).max(1)) <= np.quantile((base / spread).max(1), 0.95) * (1 + 1e-9))
