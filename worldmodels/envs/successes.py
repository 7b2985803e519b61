"""Whether an environment says that it has been solved, in whichever of the usual places it says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from worldmodels.errors import UserError, literal

UNKNOWN = -1
"""In the place of 0 or 1 where an environment does not say whether it has been solved."""
KEYS = ("success", "is_success")
"""Keys of ``info`` that tell: most libraries' and Gymnasium-Robotics'."""
FINAL = "final_info"
"""Key of ``info`` under which some wrappers keep what the last step of an episode told."""


def success_of(info: Mapping[str, Any]) -> int:
    """Return 1 where any of the places says that it is solved, 0 where one says not, else :data:`UNKNOWN`.

    Raise :class:`UserError` for what is neither true nor false.
    """
    return max((_truth(key, value) for key, value in _told(info)), default=UNKNOWN)


def _told(info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((key, info[key]) for key in KEYS if info.get(key) is not None)
    final = info.get(FINAL)
    for part in [final] if isinstance(final, Mapping) else np.ravel(np.asarray(final, object)):
        if isinstance(part, Mapping):
            yield from _told(part)


def _truth(key: str, value: Any) -> int:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size != 1 or not np.isfinite(array).all():
        raise UserError(f"info[{key!r}]={literal(value)} is neither true nor false; mend the environment.")
    return int(bool(array.reshape(())))
