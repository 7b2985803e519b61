"""LeRobot's folders, version 3: parquet files of many episodes, videos of many episodes, and where each one lies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from typing_extensions import override

from worldmodels.common.options import checked
from worldmodels.data.readers.base import Reader, Recording, require_kind, require_package
from worldmodels.data.readers.lerobot_columns import WHAT, decoded_images, decoded_video, numbers
from worldmodels.data.readers.rows import departed, unread
from worldmodels.errors import UserError, sentence, shown

STATES = ("observation.state", "observation.environment_state")
"""Fields of numbers that are read as the state: the first that is there."""
ACTION, REWARD, SUCCESS, DONE = "action", "next.reward", "next.success", "next.done"
EPISODE, FRAME, TIME = "episode_index", "frame_index", "timestamp"
UNREWARDED = f"there is no {REWARD!r}: every reward is 0"
UNENDED = f"there is no {SUCCESS!r}, so no end is one for good: {DONE!r} tells ends of recordings too"
EARLY = f"{SUCCESS!r} is true before the last row of an episode too, where it ends nothing"
ROW_NAMES = (TIME, FRAME, EPISODE, "index", "task_index")
"""Fields that number the rows."""


@dataclass(frozen=True)
class _Folder:
    """One dataset: its features, and the tables that were opened last."""

    root: Path
    info: Mapping[str, Any]
    parquet: Any

    @property
    def features(self) -> Mapping[str, Any]:
        return self.info["features"]

    def cameras(self) -> list[str]:
        """Names of the features that are frames."""
        return [key for key, feature in self.features.items() if feature.get("dtype") in ("video", "image")]

    def table(self, path: Path, without: str | None = None) -> Any:
        """A parquet file, without columns whose names begin so. Raise ``UserError`` where it cannot be read."""
        try:
            names = self.parquet.read_schema(path).names
            kept = [name for name in names if without is None or not name.startswith(without)]
            return self.parquet.read_table(path, columns=kept)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise UserError(f"{path} cannot be read as parquet: {sentence(shown(error))}") from error

    def place(self, kind: str, episode: Mapping[str, Any], of: str, suffix: str) -> Path:
        """The file of an episode, by the chunk and the number that its record tells."""
        chunk, file = (_number(episode, f"{of}/{name}", self.root) for name in ("chunk_index", "file_index"))
        return self.root / kind / f"chunk-{chunk:03d}" / f"file-{file:03d}{suffix}"


class LeRobotReader(Reader):
    """Reads a folder with ``meta/info.json`` of LeRobot's version 3.

    In a row stand what was seen, what was then done and what that earned. Of several cameras the first is read. It
    assumes each episode once, whole and in order, a column for each feature that is read, as wide in every row, and
    images that decode; else the folder is refused.

    Args:
        actions: as they are, which must lie in [-1, 1], or each number from its least and most in ``meta/stats.json``.
    """

    @checked
    def __init__(
        self, actions: Annotated[Literal["as_is", "min_max"], "as they are, or rescaled to [-1, 1]"] = "as_is"
    ) -> None:
        self.actions = actions

    @override
    def accepts(self, name: str) -> bool:
        return (Path(name) / "meta" / "info.json").is_file()

    def read(self, name: str) -> Iterator[Recording]:
        """Read its episodes, in their order."""
        root = Path(name)
        info = _json(root / "meta" / "info.json")
        _require_known(root, info)
        folder = _Folder(root, info, require_package("pyarrow.parquet", WHAT, "lerobot"))
        state, camera, notes = _choose(folder)
        bounds = self._bounds(folder)
        opened: tuple[Path, Any, np.ndarray] | None = None
        for episode in _episodes(folder):
            path = folder.place("data", episode, "data", ".parquet")
            if opened is None or opened[0] != path:
                table = folder.table(path)
                opened = path, table, numbers(str(path), table, EPISODE, 1)[:, 0]
            source = f"{path}, episode {episode[EPISODE]}"
            rows = opened[1].filter(opened[2] == episode[EPISODE])
            _require_whole(source, rows, episode.get("length"))
            seen = {} if state is None else {"state": numbers(source, rows, state)}
            if camera is not None:
                seen["pixels"] = _frames(folder, episode, camera, source, rows)
            reward, success, told = _flags(source, folder, rows)
            yield departed(
                source,
                seen,
                _rescaled(source, numbers(source, rows, ACTION), bounds),
                np.zeros(rows.num_rows) if reward is None else reward,
                success is not None and bool(success[-1]),
                finished=True,
                notes=notes + told,
            )

    def _bounds(self, folder: _Folder) -> tuple[np.ndarray, np.ndarray] | None:
        """Least and most of each number of an action, which become -1 and 1."""
        if self.actions == "as_is":
            return None
        path = folder.root / "meta" / "stats.json"
        stats = _json(path)
        of = stats.get(ACTION) if isinstance(stats, Mapping) else None
        try:
            low, high = (np.ravel(of[name]).astype(np.float64) for name in ("min", "max"))
        except (TypeError, KeyError, ValueError):  # no mapping, without them, no numbers
            low = high = np.empty(0)
        if not low.size or low.shape != high.shape or not np.isfinite([low, high]).all() or (low > high).any():
            raise UserError(f"{path} does not tell least and most of {ACTION!r}: use readers.lerobot.actions=as_is.")
        return low, high


def _rescaled(source: str, action: np.ndarray, bounds: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Map bounds to -1 and 1. What cannot vary is 0."""
    if bounds is None:
        return action
    low, high = bounds
    if action.shape[1] != len(low):
        raise UserError(
            f"{source}: {ACTION!r} has {action.shape[1]} numbers and its bounds in meta/stats.json are {len(low)}: use "
            "readers.lerobot.actions=as_is."
        )
    beside = np.abs(action - low).max(0) > 1e-6 * (1 + np.abs(low))
    if (odd := np.flatnonzero(beside & (high == low))).size:
        raise UserError(
            f"{source}: number {odd[0]} of {ACTION!r} varies and meta/stats.json tells one value: use "
            "readers.lerobot.actions=as_is."
        )
    return np.where(high > low, 2 * (action - low) / np.where(high > low, high - low, 1) - 1, 0)


def _require_whole(source: str, rows: Any, length: Any) -> None:
    """Refuse rows of an episode that are not as many as is told, or not in order."""
    if not rows.num_rows or length not in (None, rows.num_rows):
        told = "" if length is None else f" and {shown(length)} in meta/episodes"
        raise UserError(f"{source} has {rows.num_rows} rows{told}: the folder is not whole.")
    for key, wrong in ((FRAME, lambda x: x != np.arange(len(x))), (TIME, lambda x: np.diff(x, prepend=-np.inf) <= 0)):
        if key in rows.column_names and len(odd := np.flatnonzero(wrong(numbers(source, rows, key)[:, 0]))):
            raise UserError(f"{source}: {key!r} is out of order in its row {odd[0]}: sort the rows by it, from 0 on.")


def _flags(source: str, folder: _Folder, rows: Any) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Return reward and success of each row, None where nobody tells them, and what is to be told of that.

    A feature without a column is refused, a column that is no feature is read.
    """
    found, notes = {}, ()
    for key, unsaid in ((REWARD, UNREWARDED), (SUCCESS, UNENDED)):
        stored = key in rows.column_names
        found[key] = numbers(source, rows, key, 1)[:, 0] if stored or key in folder.features else None
        if not stored:
            notes += (unsaid,)
        elif key not in folder.features:
            notes += (f"{key!r} is no feature in info.json but a column, and is read",)
    if found[SUCCESS] is not None:
        require_kind(source, SUCCESS, found[SUCCESS])
        if not np.isin(found[SUCCESS], (0, 1)).all():
            raise UserError(f"{source}: {SUCCESS!r} holds what is neither true nor false.")
        notes += (EARLY,) if found[SUCCESS][:-1].any() else ()
    return found[REWARD], found[SUCCESS], notes


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {sentence(shown(error))}") from error


def _require_known(root: Path, info: Any) -> None:
    """Refuse other versions, and folders without an action or anything seen."""
    version = info.get("codebase_version") if isinstance(info, Mapping) else None
    if not str(version).startswith("v3."):
        raise UserError(
            f"data={root} is of LeRobot's version {shown(version)}, and v3 is read: convert it with LeRobot's own "
            "convert_dataset_v21_to_v30."
        )
    features = info.get("features", {})
    if not isinstance(features, Mapping) or not all(isinstance(of, Mapping) for of in features.values()):
        raise UserError(
            f"{root}: 'features' in meta/info.json is {shown(features)}, where names with a dtype each belong."
        )
    seen = [key for key, of in features.items() if key in STATES or of.get("dtype") in ("video", "image")]
    if ACTION not in features or not seen:
        raise UserError(f"data={root} has no {ACTION!r} or nothing that is seen, only {shown(sorted(features))}.")
    odd = [key for key in features if Path(key).name != key]
    if odd:
        raise UserError(f"{root}: {shown(odd[0])} is no name of a feature.")


def _choose(folder: _Folder) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return the numbers and the camera that are read, and what is told of the rest."""
    camera = next(iter(folder.cameras()), None)
    state = next((key for key in STATES if key in folder.features), None)
    return state, camera, unread(folder.features, (*ROW_NAMES, str(state), str(camera), ACTION, REWARD, SUCCESS, DONE))


def _episodes(folder: _Folder) -> list[Mapping[str, Any]]:
    """What ``meta/episodes`` says of each episode, without its statistics."""
    files = sorted((folder.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise UserError(f"{folder.root} has no meta/episodes/chunk-*/file-*.parquet: the folder is not whole.")
    found = [episode for path in files for episode in folder.table(path, without="stats/").to_pylist()]
    told = sorted(({**one, EPISODE: _number(one, EPISODE, folder.root)} for one in found), key=lambda one: one[EPISODE])
    twice = [one[EPISODE] for one, other in itertools.pairwise(told) if one[EPISODE] == other[EPISODE]]
    if twice:
        raise UserError(f"{folder.root}: meta/episodes tells episode {twice[0]} twice: leave one of them out.")
    return told


def _told(episode: Mapping[str, Any], key: str, root: Path) -> Any:
    if episode.get(key) is None:
        raise UserError(f"{root}: meta/episodes has no {key!r}: the folder is not whole.")
    return episode[key]


def _number(episode: Mapping[str, Any], key: str, root: Path) -> int:
    value = _told(episode, key, root)
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{root}: {key!r} in meta/episodes is {shown(value)}, where a number from 0 on is expected.")
    return value


def _frames(folder: _Folder, episode: Mapping[str, Any], camera: str, source: str, rows: Any) -> np.ndarray:
    """Return the frames of an episode's rows, uint8 [T, C, H, W], out of parquet or a video."""
    if folder.features[camera]["dtype"] == "image":
        return decoded_images(source, rows, camera)
    path = folder.place(f"videos/{camera}", episode, f"videos/{camera}", ".mp4")
    begin, fps = _told(episode, f"videos/{camera}/from_timestamp", folder.root), folder.info.get("fps")
    for key, value, least in ((f"videos/{camera}/from_timestamp", begin, 0), ("fps", fps, 1e-6)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < np.inf:
            raise UserError(f"{source}: {key!r} is {shown(value)}, where a number is expected to find frames by.")
    return decoded_video(path, begin + numbers(source, rows, TIME, 1)[:, 0], float(fps))
