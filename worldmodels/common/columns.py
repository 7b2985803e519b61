"""Names of columns that several rooms agree on, without torch: environment workers import this."""

from __future__ import annotations

from collections.abc import Iterable

PIXELS, STATE = "pixels", "state"
"""Observations that show where one is: the frames of a camera, and a vector."""
CAMERA_PREFIX = "pixels_"
"""Prefix of the frames of further cameras, before their names."""
GOAL_PREFIX = "goal_"
"""Prefix of observations that show where to go, in the form of those that show where one is."""
MEMORY_PREFIX = "memory."
"""Prefix of the replay columns that keep the latent a row was filtered to (``data.context=latent``)."""
PLACE = "place"
"""Column that says where a sampled row lies, for what is written back: its number x environments + environment."""
LATER_PREFIX = "later_"
"""Prefix of columns [B, 1] that hold one row of the episode behind each window, drawn from all that there are."""
LATER_ROWS = "later_rows"
"""How many there are, [B, 1]. Where there is none, the window's last row stands in the others."""


def cameras(keys: Iterable[str]) -> list[str]:
    """Return those keys that hold frames of the present, the first camera's before the others'."""
    return sorted(key for key in keys if key == PIXELS or key.startswith(CAMERA_PREFIX))


def shows_frames(key: str) -> bool:
    """Return whether a column holds frames: of a camera, or of a goal."""
    return bool(cameras([key.removeprefix(GOAL_PREFIX)]))


def observed(keys: Iterable[str]) -> list[str]:
    """Return those keys that show where one is, in a fixed order: cameras, then the state."""
    keys = set(keys)
    return [*cameras(keys), *(STATE for _ in keys & {STATE})]
