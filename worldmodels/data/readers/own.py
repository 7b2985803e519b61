"""Recordings of our own: what `scripts/collect.py` made, or the replay of a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from worldmodels.common.batch import ROW_FLAGS
from worldmodels.common.columns import MEMORY_PREFIX
from worldmodels.data.readers.base import SKILL, Reader, Recording, recording
from worldmodels.data.replay import Replay


def own_folder(path: Path) -> Path | None:
    """Return where the replay of a recording of ours is, or of a training's run. None where there is none."""
    return next((place for place in (path, path / "replay") if (place / "replay.json").exists()), None)


class OwnReader(Reader):
    """Reads a folder that holds a replay (``replay.json``)."""

    @override
    def accepts(self, name: str) -> bool:
        return own_folder(Path(name)) is not None

    def read(self, name: str) -> Iterator[Recording]:
        """Yield a replay's episodes, without stored latents. What the ring has cut is left out."""
        path = own_folder(Path(name))
        replay = Replay.open(path, cross_resets=False)
        kept = [key for key in replay.layout.spec if key not in ROW_FLAGS and not key.startswith(MEMORY_PREFIX)]
        replay.restrict([*kept, *ROW_FLAGS])
        for first, length, env in replay.episode_spans():
            rows = {key: value.numpy() for key, value in replay.episode_from(first, length, env).items()}
            if not rows["is_first"][0]:
                continue
            seen = {key: rows[key] for key in kept if key not in ("action", "reward", SKILL)}
            source = f"{path}, rows {first} to {first + length - 1} of environment {env}"
            terminal, finished = (bool(rows[key][-1]) for key in ("is_terminal", "is_last"))
            yield recording(source, seen, rows["action"], rows["reward"], terminal, rows.get(SKILL), finished)
