"""LeRobot's folders, version 3: parquet files of many episodes, videos of many episodes, and where each one lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from worldmodels.common.options import checked
from worldmodels.data.readers.base import Reader, Recording, require_package
from worldmodels.data.readers.rows import departed, unread
from worldmodels.errors import UserError, sentence, shown

ROW_NAMES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Fields that number the rows."""
STATES = ("observation.state", "observation.environment_state")
"""Fields of numbers that are read as the state: the first that is there."""
ACTION, REWARD, SUCCESS, DONE = "action", "next.reward", "next.success", "next.done"
UNREWARDED = f"there is no {REWARD!r}: every reward is 0"
UNENDED = f"there is no {SUCCESS!r}, so no end is one for good: {DONE!r} tells ends of recordings too"
WHAT = "LeRobot's datasets"


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

    def table(self, path: Path, columns: list[str] | None = None) -> Any:
        """A parquet file. Raise ``UserError`` where it cannot be read."""
        try:
            return self.parquet.read_table(path, columns=columns)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise UserError(f"{path} cannot be read as parquet: {sentence(shown(error))}") from error

    def place(self, kind: str, episode: Mapping[str, Any], of: str, suffix: str) -> Path:
        """The file of an episode, by the chunk and the number that its record tells."""
        chunk, file = (int(_told(episode, f"{of}/{name}", self.root)) for name in ("chunk_index", "file_index"))
        return self.root / kind / f"chunk-{chunk:03d}" / f"file-{file:03d}{suffix}"


class LeRobotReader(Reader):
    """Reads a folder with ``meta/info.json`` of LeRobot's version 3.

    In a row stand what was seen, what was then done and what that earned. Of several cameras the first is read.

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
        low, high = self._bounds(folder)
        opened: tuple[Path, Any] | None = None
        for episode in _episodes(folder):
            path = folder.place("data", episode, "data", ".parquet")
            if opened is None or opened[0] != path:
                opened = path, folder.table(path)
            number = int(_told(episode, "episode_index", root))
            rows = opened[1].filter(np.equal(opened[1]["episode_index"].to_numpy(), number))
            source = f"{path}, episode {number}"
            if not rows.num_rows:
                raise UserError(f"{source} has no rows: the folder is not whole.")
            seen = {} if state is None else {"state": _numbers(rows, state)}
            if camera is not None:
                seen["pixels"] = _frames(folder, episode, camera, rows)
            action = 2 * (_numbers(rows, ACTION) - low) / np.where(high > low, high - low, 1) - 1
            yield departed(
                source,
                seen,
                np.where(high > low, action, 0),
                _numbers(rows, REWARD) if REWARD in rows.column_names else np.zeros(rows.num_rows),
                SUCCESS in rows.column_names and bool(_numbers(rows, SUCCESS)[-1, 0]),
                finished=True,
                notes=notes,
            )

    def _bounds(self, folder: _Folder) -> tuple[np.ndarray, np.ndarray]:
        """Least and most of each number of an action, which become -1 and 1."""
        if self.actions == "as_is":
            return np.array(-1.0), np.array(1.0)
        path = folder.root / "meta" / "stats.json"
        stats = _json(path).get(ACTION, {})
        if not {"min", "max"} <= stats.keys():
            raise UserError(f"{path} does not tell least and most of {ACTION!r}: use readers.lerobot.actions=as_is.")
        return np.ravel(stats["min"]).astype(np.float64), np.ravel(stats["max"]).astype(np.float64)


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
    notes = unread(folder.features, (*ROW_NAMES, str(state), str(camera), ACTION, REWARD, SUCCESS, DONE))
    if REWARD not in folder.features:
        notes += (UNREWARDED,)
    if SUCCESS not in folder.features:
        notes += (UNENDED,)
    return state, camera, notes


def _episodes(folder: _Folder) -> list[Mapping[str, Any]]:
    """What ``meta/episodes`` says of each episode, without its statistics."""
    files = sorted((folder.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise UserError(f"{folder.root} has no meta/episodes/chunk-*/file-*.parquet: the folder is not whole.")
    found = []
    for path in files:
        names = folder.parquet.read_schema(path).names
        found += folder.table(path, [name for name in names if not name.startswith("stats/")]).to_pylist()
    return sorted(found, key=lambda episode: _told(episode, "episode_index", folder.root))


def _told(episode: Mapping[str, Any], key: str, root: Path) -> Any:
    if episode.get(key) is None:
        raise UserError(f"{root}: meta/episodes has no {key!r}: the folder is not whole.")
    return episode[key]


def _numbers(rows: Any, key: str) -> np.ndarray:
    """A column as numbers [T, n]."""
    if key not in rows.column_names:
        raise UserError(f"{key!r} is a feature in info.json and no column of its parquet files.")
    return np.asarray(rows[key].to_pylist()).reshape(rows.num_rows, -1)


def _frames(folder: _Folder, episode: Mapping[str, Any], camera: str, rows: Any) -> UInt8[np.ndarray, "T C H W"]:
    """The frames of an episode's rows, out of parquet or a video."""
    if folder.features[camera]["dtype"] == "image":
        coded = [np.frombuffer(image["bytes"], np.uint8) for image in rows[camera].to_pylist()]
        frames = [cv2.cvtColor(cv2.imdecode(one, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for one in coded]
        return np.stack(frames).transpose(0, 3, 1, 2)
    path = folder.place(f"videos/{camera}", episode, f"videos/{camera}", ".mp4")
    begin = float(_told(episode, f"videos/{camera}/from_timestamp", folder.root))
    return _decoded(path, begin + _numbers(rows, "timestamp")[:, 0], float(folder.info["fps"]))


def _decoded(path: Path, times: np.ndarray, fps: float) -> UInt8[np.ndarray, "T C H W"]:
    """The frames of a video at these seconds, each within half a frame of its time."""
    av = require_package("av", f"videos of {WHAT}", "lerobot")
    found: list[np.ndarray] = []
    try:
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            video.seek(max(0, int((times[0] - 0.5 / fps) / stream.time_base)), stream=stream)
            for frame in video.decode(stream):
                if len(found) == len(times):
                    break
                if frame.time > times[len(found)] - 0.5 / fps:
                    found.append(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
    except (OSError, ValueError, IndexError) as error:  # av's own errors are OSErrors or ValueErrors
        raise UserError(f"{path} cannot be read as a video: {sentence(shown(error))}") from error
    if len(found) < len(times):
        raise UserError(f"{path} has {len(found)} frames of the {len(times)} behind second {times[0]:.3f}.")
    return np.stack(found)
