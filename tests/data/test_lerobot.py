"""LeRobot's folders of version 3: rows, videos, images, ends, and what is refused."""

from __future__ import annotations

import builtins
import json
import sys

import cv2
import numpy as np
import pytest

from worldmodels.data.readers import read
from worldmodels.data.readers.lerobot import UNENDED, UNREWARDED, LeRobotReader
from worldmodels.errors import UserError

LENGTHS = (4, 6, 5)
EXTRA = 'takes another package: pip install "worldmodels[lerobot]"'
CAMERA = "observation.images.top"


@pytest.fixture
def parquet():
    """Pyarrow, where the extra `lerobot` is installed."""
    pytest.importorskip("pyarrow.parquet", reason=EXTRA)
    return pytest.importorskip("pyarrow")


def features(**more):
    return {
        "observation.state": {"dtype": "float32", "shape": [2]},
        "action": {"dtype": "float32", "shape": [1]},
        "timestamp": {"dtype": "float32", "shape": [1]},
        "frame_index": {"dtype": "int64", "shape": [1]},
        "episode_index": {"dtype": "int64", "shape": [1]},
        **more,
    }


def made_info(root, version="v3.0", **more):
    (root / "meta").mkdir(parents=True, exist_ok=True)
    info = {"codebase_version": version, "fps": 10, "features": features(**more)}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


def made(arrow, root, columns=lambda number, length: {}, more=None):
    """Three episodes in two parquet files; the state counts rows over all, the action is a tenth of it."""
    made_info(root, **(more or {}))
    place = lambda kind, file: root / kind / "chunk-000" / f"file-{file:03d}.parquet"  # noqa: E731
    (root / "data" / "chunk-000").mkdir(parents=True)
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    tables, records, begin = {0: [], 1: []}, [], 0
    for number, length in enumerate(LENGTHS):
        count = np.arange(begin, begin + length)
        rows = {
            "observation.state": [[float(t), -float(t)] for t in count],
            "action": [[t / 100] for t in count],
            "timestamp": [t / 10 for t in range(length)],
            "frame_index": list(range(length)),
            "episode_index": [number] * length,
            **columns(number, length),
        }
        file = int(number == 2)
        tables[file].append(arrow.table(rows))
        records.append(
            {
                "episode_index": number,
                "length": length,
                "data/chunk_index": 0,
                "data/file_index": file,
                "stats/action/min": [0.0],
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": 0,
                f"videos/{CAMERA}/from_timestamp": begin / 10,
            }
        )
        begin += length
    for file, parts in tables.items():
        arrow.parquet.write_table(arrow.concat_tables(parts), place("data", file))
    arrow.parquet.write_table(arrow.Table.from_pylist(records), place("meta/episodes", 0))
    return root


def test_rows_of_lerobot_are_moved_one_on(tmp_path, parquet):
    """The last action of an episode led nowhere and earned nothing: it is left out."""
    found = list(read(str(made(parquet, tmp_path / "set"))))
    begin = 0
    for episode, length in zip(found, LENGTHS, strict=True):
        rows = np.arange(begin, begin + length)
        np.testing.assert_array_equal(episode.observations["state"], np.stack([rows, -rows], axis=1))
        np.testing.assert_allclose(episode.action[:, 0], [0, *rows[:-1] / 100], rtol=1e-6)
        assert not episode.reward.any()
        assert (episode.terminal, episode.finished) == (False, True)
        assert episode.notes == (UNREWARDED, UNENDED)
        begin += length


def test_lerobots_rewards_and_ends_are_kept(tmp_path, parquet):
    def columns(number, length):
        last = np.arange(length) == length - 1
        return {
            "next.reward": last * 1.0,
            "next.done": last,
            "next.success": last & (number != 1),
            "observation.effort": [[0.0]] * length,
        }

    names = ("next.reward", "next.done", "next.success", "observation.effort")
    more = {name: {"dtype": "float32", "shape": [1]} for name in names}
    found = list(read(str(made(parquet, tmp_path / "set", columns, more))))
    for episode, length, ended in zip(found, LENGTHS, (True, False, True), strict=True):
        assert episode.reward.tolist() == [0.0] * length + [1.0]
        assert (episode.observations["state"][-1] == episode.observations["state"][-2]).all()
        assert episode.terminal == ended
        assert episode.notes[0] == "fields that are not read: [observation.effort]"


def test_lerobots_actions_may_be_rescaled(tmp_path, parquet):
    root = made(parquet, tmp_path / "set")
    with pytest.raises(UserError, match=r"stats\.json cannot be read as JSON"):
        list(LeRobotReader(actions="min_max").read(str(root)))
    (root / "meta" / "stats.json").write_text(json.dumps({"action": {"min": [0.0], "max": [0.14]}}))
    [first, *_] = LeRobotReader(actions="min_max").read(str(root))
    np.testing.assert_allclose(first.action[1:, 0], np.arange(3) / 7 - 1, atol=1e-6)
    (root / "meta" / "stats.json").write_text("{}")
    with pytest.raises(UserError, match=r"use readers\.lerobot\.actions=as_is"):
        list(LeRobotReader(actions="min_max").read(str(root)))


def shade(number):
    """A frame whose brightness tells its number."""
    return np.full((32, 48, 3), 10 + 15 * number, np.uint8)


def test_lerobots_videos_are_read_by_time(tmp_path, parquet):
    """All episodes lie in one video, one after another; each takes its own frames."""
    av = pytest.importorskip("av", reason=EXTRA)
    video = {"dtype": "video", "shape": [32, 48, 3]}
    other = "observation.images.wrist"
    root = made(parquet, tmp_path / "set", more={CAMERA: video, other: video})
    path = root / "videos" / CAMERA / "chunk-000" / "file-000.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(sum(LENGTHS)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shade(number), format="rgb24")))
        out.mux(stream.encode())
    begin = 0
    for episode, length in zip(read(str(root)), LENGTHS, strict=True):
        pixels = episode.observations["pixels"]
        assert pixels.shape == (length, 3, 32, 48)
        expected = 10.0 + 15 * np.arange(begin, begin + length)
        np.testing.assert_allclose(pixels.mean((1, 2, 3)), expected, atol=6)
        assert f"fields that are not read: [{other}]" in episode.notes
        begin += length
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"file-000\.mp4 (cannot be read as a video|has \d+ frames)"):
        list(read(str(root)))


def test_lerobots_images_are_read(tmp_path, parquet):
    def columns(number, length):
        coded = [cv2.imencode(".png", shade(t)[..., ::-1] // [1, 2, 4])[1].tobytes() for t in range(length)]
        return {CAMERA: [{"bytes": one, "path": None} for one in coded]}

    root = made(parquet, tmp_path / "set", columns, {CAMERA: {"dtype": "image", "shape": [32, 48, 3]}})
    [first, *_] = read(str(root))
    assert first.observations["pixels"][:, :, 0, 0].tolist() == [
        [(10 + 15 * t) // 4, (10 + 15 * t) // 2, 10 + 15 * t] for t in range(LENGTHS[0])
    ]


def test_other_versions_of_lerobot_are_refused(tmp_path):
    for version in ("v2.1", None):
        root = made_info(tmp_path / str(version), version)
        with pytest.raises(UserError, match=rf"is of LeRobot's version {version or 'null'}, and v3 is read: convert"):
            list(read(str(root)))
    root = made_info(tmp_path / "odd", **{"../../up": {"dtype": "video", "shape": [1]}})
    with pytest.raises(UserError, match=r"\.\./\.\./up is no name of a feature"):
        list(read(str(root)))
    (root / "meta" / "info.json").write_text("{torn")
    with pytest.raises(UserError, match=r"info\.json cannot be read as JSON"):
        list(read(str(root)))


def test_lerobot_without_its_packages_says_so(tmp_path, monkeypatch):
    """In one sentence that names the extra."""
    import_ = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return import_(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(UserError, match=r"LeRobot's datasets take another package: pip install .*\[lerobot\]"):
        list(read(str(made_info(tmp_path / "set"))))


def test_folders_that_are_not_whole_are_refused(tmp_path, parquet):
    root = made(parquet, tmp_path / "set")
    table = parquet.parquet.read_table(root / "data" / "chunk-000" / "file-001.parquet")
    parquet.parquet.write_table(table.drop(["action"]), root / "data" / "chunk-000" / "file-001.parquet")
    with pytest.raises(UserError, match=r"'action' is a feature in info\.json and no column"):
        list(read(str(root)))
    (root / "data" / "chunk-000" / "file-001.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"file-001\.parquet cannot be read as parquet"):
        list(read(str(root)))
    [records] = (root / "meta" / "episodes" / "chunk-000").iterdir()
    table = parquet.parquet.read_table(records)
    parquet.parquet.write_table(table.drop(["data/file_index"]), records)
    with pytest.raises(UserError, match="meta/episodes has no 'data/file_index': the folder is not whole"):
        list(read(str(root)))
    records.unlink()
    with pytest.raises(UserError, match=r"has no meta/episodes/chunk-\*/file-\*\.parquet"):
        list(read(str(root)))
