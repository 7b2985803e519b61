"""What a first look at recordings tells: their notes, the range of actions, and which row actions belong to."""

from __future__ import annotations

import logging

import cv2
import numpy as np
from jaxtyping import Float64

from worldmodels.data.readers.base import Recording, require_actions
from worldmodels.errors import shown

log = logging.getLogger(__name__)

MOST_ROWS = 20_000
"""Rows that are compared with actions, at most."""
FEWEST_ROWS = 30
"""Rows below which nothing can be said."""
SIDE = 8
"""Side of the squares that frames are averaged to, to see what moves."""
FAINT = 0.05
"""Share of what moves that is nothing."""
PLAUSIBLE = 0.5
"""Part of the best row's share from which on another row is as plausible: what acts late explains two rows alike."""
NOTE, SOURCE = 170, 90
"""Characters of a note, and of where it was found, that are told."""
SMALL = 0.5
"""Actions that never reach this, of the 1 that they may, are told of."""
ROWS = {-1: "the row before", 0: "the same", 1: "the row behind"}
"""Rows whose actions are held against what moved into a row."""
WHERE = {
    -1: "the actions of the row before: they may stand one row early, as DreamerV3's do",
    0: "the actions of the same row, as it must be here",
    1: "the actions of the row behind: they may stand one row late",
}


class Survey:
    """Looks at every episode of a dataset once, before it is copied, and says what it found, a sentence each."""

    def __init__(self) -> None:
        self.rows = self.episodes = self.skilled = self.single = 0
        self.notes: dict[str, list[str]] = {}
        self.least: np.ndarray | None = None
        self.most: np.ndarray | None = None
        self._moved: list[tuple[np.ndarray, dict[int, np.ndarray]]] = []
        self._compared = 0

    def add(self, episode: Recording) -> None:
        """Look at one more episode. Raise ``UserError`` where its reader gives no rows of numbers as actions."""
        require_actions(episode.source, episode.action)
        self.rows, self.episodes = self.rows + len(episode.action), self.episodes + 1
        self.skilled += episode.skill is not None
        self.single += len(episode.action) == 1
        for note in episode.notes:
            self.notes.setdefault(note, []).append(episode.source)
        least, most = episode.action.min(0), episode.action.max(0)
        if self.least is None or self.least.shape != least.shape:
            self.least, self.most = least, most
        self.least, self.most = np.minimum(self.least, least), np.maximum(self.most, most)
        if self._compared < MOST_ROWS and len(episode.action) > 3:
            self._compare(episode)

    def tell(self, name: object) -> None:
        """Log what was found. What may be wrong is a warning."""
        for note, sources in self.notes.items():
            more = f" (and {len(sources) - 1} more)" if len(sources) > 1 else ""
            log.warning("data: %s%s: %s", _end(sources[0]), more, note if len(note) <= NOTE else f"{note[: NOTE - 1]}…")
        if self.single:
            log.warning(
                "data=%s: %d of %d episodes have one row, in which nothing was done: see what marks their ends",
                shown(name),
                self.single,
                self.episodes,
            )
        log.log(*self._range(name))
        warn, found = alignment(self._shares())
        log.log(logging.WARNING if warn else logging.INFO, "data=%s: %s", shown(name), found)

    def _range(self, name: object) -> tuple[int, str]:
        reach = np.maximum(np.abs(self.least), np.abs(self.most))
        small = np.flatnonzero((reach > 0) & (reach < SMALL))
        said = f"data={shown(name)}: actions lie in [{self.least.min():.3g}, {self.most.max():.3g}], of [-1, 1] here"
        if not len(small):
            return logging.INFO, said
        return logging.WARNING, (
            f"{said}; number {small[0]} of {len(reach)} never exceeds {reach[small[0]]:.3g}: if that is the bound of "
            "the environment it was recorded in, divide by it"
        )

    def _compare(self, episode: Recording) -> None:
        """Keep how much each observation moved, and the actions of its row and of those around it."""
        seen = episode.observations.get("state")
        if seen is None:
            frames = episode.observations.get("pixels")
            seen = None if frames is None else _coarse(frames[:MOST_ROWS])
        if seen is None:
            return
        seen, action = seen[:MOST_ROWS], episode.action[:MOST_ROWS]
        moved = np.diff(seen.astype(np.float64), axis=0)[1:-1]  # into rows 2, 3, ..., T - 2
        near = {row: action[2 + row : len(action) - 1 + row].astype(np.float64) for row in ROWS}
        self._moved.append((moved, near))
        self._compared += len(moved)

    def _shares(self) -> dict[int, float] | None:
        """Return the share of what moves that actions explain, from the row before, the same and the row behind."""
        kinds = {(moved.shape[1], near[0].shape[1]) for moved, near in self._moved}
        if self._compared < FEWEST_ROWS or len(kinds) > 1:
            return None
        moved = np.concatenate([moved for moved, _ in self._moved])
        return {row: explained(np.concatenate([near[row] for _, near in self._moved]), moved) for row in ROWS}


def _end(source: str) -> str:
    """Return the end of a source's name, where it is long: there stands the file."""
    return source if len(source) <= SOURCE else f"…{source[1 - SOURCE :]}"


def explained(action: Float64[np.ndarray, "N A"], moved: Float64[np.ndarray, "N M"]) -> float:
    """Return the share of variance that a linear map of actions explains, of the number it explains best."""
    moved = moved[:, moved.std(0) > 1e-9]
    if not moved.size or not (action.std(0) > 1e-9).any() or len(moved) <= action.shape[1] + 2:
        return 0.0
    inputs = np.concatenate([action, np.ones((len(action), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(inputs, moved, rcond=None)
    left = ((moved - inputs @ weights) ** 2).sum(0) / ((moved - moved.mean(0)) ** 2).sum(0)
    return float(max(0.0, 1 - left.min() * (len(moved) - 1) / (len(moved) - action.shape[1] - 1)))


def alignment(shares: dict[int, float] | None) -> tuple[bool, str]:
    """Return whether to warn, and the sentence: which row's actions explain best what moved into a row."""
    if shares is None:
        return False, "too few rows of a kind to see which row actions belong to"
    numbers = f"{shares[-1]:.2f}, {shares[0]:.2f} and {shares[1]:.2f} of what moves into a row"
    said = f"actions of the row before, the same and the row behind explain {numbers}"
    best = max(shares, key=shares.__getitem__)
    if shares[best] < FAINT:
        return False, f"{said}: which row they belong to cannot be seen"
    plausible = [text for row, text in ROWS.items() if shares[row] >= PLAUSIBLE * shares[best]]
    if len(plausible) > 1:
        return False, f"{said}: {' and '.join(plausible)} are plausible"
    return best != 0, f"{said}: it follows {WHERE[best]}"


def _coarse(frames: np.ndarray) -> np.ndarray:
    """Return grey frames of a few squares each, [T, SIDE * SIDE]."""
    return np.stack([cv2.resize(frame.mean(0), (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel() for frame in frames])
