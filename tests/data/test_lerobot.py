"""LeRobot's folders of version 3: rows, videos, images, ends, and what is refused."""

from __future__ import annotations

import builtins
import json
import sys

import av
import cv2
import numpy as np
import pyarrow.parquet
import pytest

from worldmodels.data.readers import read
from worldmodels.data.readers.lerobot import EARLY, UNENDED, UNREWARDED, LeRobotReader
from worldmodels.errors import UserError

LENGTHS = (4, 6, 5)
CAMERA = "observation.images.top"


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


def made(root, columns=lambda number, length: {}, more=None):
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
        tables[file].append(pyarrow.table(rows))
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
        pyarrow.parquet.write_table(pyarrow.concat_tables(parts), place("data", file))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), place("meta/episodes", 0))
    return root


def test_rows_of_lerobot_are_moved_one_on(tmp_path):
    """The last action of an episode led nowhere and earned nothing: it is left out."""
    found = list(read(str(made(tmp_path / "set"))))
    begin = 0
    for episode, length in zip(found, LENGTHS, strict=True):
        rows = np.arange(begin, begin + length)
        np.testing.assert_array_equal(episode.observations["state"], np.stack([rows, -rows], axis=1))
        np.testing.assert_allclose(episode.action[:, 0], [0, *rows[:-1] / 100], rtol=1e-6)
        assert not episode.reward.any()
        assert (episode.terminal, episode.finished) == (False, True)
        assert episode.notes == (UNREWARDED, UNENDED)
        begin += length


def test_lerobots_rewards_and_ends_are_kept(tmp_path):
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
    found = list(read(str(made(tmp_path / "set", columns, more))))
    for episode, length, ended in zip(found, LENGTHS, (True, False, True), strict=True):
        assert episode.reward.tolist() == [0.0] * length + [1.0]
        assert (episode.observations["state"][-1] == episode.observations["state"][-2]).all()
        assert episode.terminal == ended
        assert episode.notes[0] == "fields that are not read: [observation.effort]"


def test_lerobots_actions_may_be_rescaled(tmp_path):
    root = made(tmp_path / "set")
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


def test_lerobots_videos_are_read_by_time(tmp_path):
    """All episodes lie in one video, one after another; each takes its own frames."""
    video = {"dtype": "video", "shape": [32, 48, 3]}
    other = "observation.images.wrist"
    root = made(tmp_path / "set", more={CAMERA: video, other: video})
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


def test_lerobots_images_are_read(tmp_path):
    def columns(number, length):
        coded = [cv2.imencode(".png", shade(t)[..., ::-1] // [1, 2, 4])[1].tobytes() for t in range(length)]
        return {CAMERA: [{"bytes": one, "path": None} for one in coded]}

    root = made(tmp_path / "set", columns, {CAMERA: {"dtype": "image", "shape": [32, 48, 3]}})
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


def test_folders_that_are_not_whole_are_refused(tmp_path):
    root = made(tmp_path / "set")
    table = pyarrow.parquet.read_table(root / "data" / "chunk-000" / "file-001.parquet")
    pyarrow.parquet.write_table(table.drop(["action"]), root / "data" / "chunk-000" / "file-001.parquet")
    with pytest.raises(UserError, match="'action' is no column of its parquet files"):
        list(read(str(root)))
    (root / "data" / "chunk-000" / "file-001.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"file-001\.parquet cannot be read as parquet"):
        list(read(str(root)))
    [records] = (root / "meta" / "episodes" / "chunk-000").iterdir()
    table = pyarrow.parquet.read_table(records)
    pyarrow.parquet.write_table(table.drop(["data/file_index"]), records)
    with pytest.raises(UserError, match="meta/episodes has no 'data/file_index': the folder is not whole"):
        list(read(str(root)))
    records.unlink()
    with pytest.raises(UserError, match=r"has no meta/episodes/chunk-\*/file-\*\.parquet"):
        list(read(str(root)))


def refusal(root, reader=None):
    """The sentence that a folder is refused with, without the folder it is in."""
    with pytest.raises(UserError) as raised:
        list((reader or LeRobotReader()).read(str(root)))
    said = str(raised.value).replace(str(root), root.name)
    assert len(said) < 300
    return said


def remade(root, **changes):
    """A folder with other words in info.json; a value of None is left out."""
    path = root / "meta" / "info.json"
    info = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not ...}
    path.write_text(json.dumps(info))
    return root


@pytest.mark.parametrize("value", [None, ["action"], "action", {"action": None}, {"action": ["float32"]}, 3])
def test_features_are_names_with_a_dtype(tmp_path, value):
    assert "'features' in meta/info.json is" in refusal(remade(made_info(tmp_path / "set"), features=value))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("action", lambda n: [[0.0], [0.0, 1.0]] * (n // 2) + [[0.0]] * (n % 2), "'action' is [0.0, 1.0] in its row 1"),
        ("action", lambda n: [[0.0], None] + [[0.0]] * (n - 2), "'action' is null in its row 1"),
        ("action", lambda n: [[]] * n, "'action' is [] in its row 0"),
        ("action", lambda n: ["left"] * n, "'action' is left in its row 0"),
        ("observation.state", lambda n: [[None, 0.0]] * n, "'observation.state' is [null, 0.0] in its row 0"),
        ("observation.state", lambda n: [None] * n, "'observation.state' is null in its row 0"),
        ("episode_index", lambda n: [None] * n, "'episode_index' is null in its row 0"),
        ("episode_index", lambda n: [[0, 0]] * n, "'episode_index' is [0, 0] in its row 0, where 1 numbers"),
        ("timestamp", lambda n: [0.0] * n, "'timestamp' is out of order in its row 1"),
        ("frame_index", lambda n: [0, 2, 1, *range(3, n)], "'frame_index' is out of order in its row 1"),
        ("frame_index", lambda n: list(range(1, n + 1)), "'frame_index' is out of order in its row 0"),
        ("next.reward", lambda n: [None] + [1.0] * (n - 1), "'next.reward' is null in its row 0"),
        ("next.reward", lambda n: [[1.0, 2.0]] * n, "'next.reward' is [1.0, 2.0] in its row 0, where 1 numbers"),
        ("next.success", lambda n: [2] * n, "'next.success' holds what is neither true nor false"),
    ],
)
def test_columns_of_lerobot_are_checked(tmp_path, key, value, said):
    assert said in refusal(made(tmp_path / "set", lambda number, length: {key: value(length)}))


@pytest.mark.parametrize("key", ["episode_index", "observation.state", "next.reward", "next.success", CAMERA])
def test_features_without_a_column_are_refused(tmp_path, key):
    """A reward that is declared and not there is not 0."""
    root = made(tmp_path / "set", more={key: {"dtype": "image" if key == CAMERA else "float32"}})
    for path in (root / "data" / "chunk-000").iterdir():
        table = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(table.drop([key] if key in table.column_names else []), path)
    assert f"'{key}' is no column of its parquet files" in refusal(root)


def test_columns_that_are_no_feature_are_told(tmp_path):
    """Rewards that are read are not said to be 0."""
    columns = lambda number, length: {"next.reward": [1.0] * length, "next.success": [False] * length}  # noqa: E731
    for episode in read(str(made(tmp_path / "set", columns))):
        assert episode.reward.sum() == len(episode.action) - 1
        assert UNREWARDED not in episode.notes
        assert UNENDED not in episode.notes
        assert [note for note in episode.notes if "no feature in info.json but a column" in note] != []


def test_success_before_the_last_row_is_told(tmp_path):
    columns = lambda number, length: {"next.success": np.arange(length) >= 1 + number * 9}  # noqa: E731
    more = {"next.success": {"dtype": "bool", "shape": [1]}}
    first, *others = read(str(made(tmp_path / "set", columns, more)))
    assert first.terminal
    assert EARLY in first.notes
    assert not any(EARLY in episode.notes or episode.terminal for episode in others)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[0].update({"length": 9}), "has 4 rows and 9 in meta/episodes: the folder is not whole"),
        (lambda rows: rows[1].update({"length": 1}), "has 6 rows and 1 in meta/episodes: the folder is not whole"),
        (lambda rows: rows[2].update({"episode_index": 0}), "meta/episodes tells episode 0 twice"),
        (lambda rows: rows.append(dict(rows[1])), "meta/episodes tells episode 1 twice"),
        (lambda rows: rows[2].update({"episode_index": 7}), "has 0 rows and 5 in meta/episodes"),
        (lambda rows: rows[2].update({"data/file_index": -1}), "'data/file_index' in meta/episodes is -1"),
        (
            lambda rows: [row.update({"data/file_index": "a"}) for row in rows],
            "'data/file_index' in meta/episodes is a",
        ),
    ],
)
def test_records_of_episodes_are_checked(tmp_path, change, said):
    root = made(tmp_path / "set")
    [path] = (root / "meta" / "episodes" / "chunk-000").iterdir()
    rows = pyarrow.parquet.read_table(path).to_pylist()
    change(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert said in refusal(root)
    path.write_bytes(b"torn")
    assert "file-000.parquet cannot be read as parquet" in refusal(root)


@pytest.mark.parametrize("fps", [..., None, "10", 0, -1, True])
def test_videos_need_frames_a_second(tmp_path, fps):
    root = made(tmp_path / "set", more={CAMERA: {"dtype": "video", "shape": [32, 48, 3]}})
    assert "'fps' is" in refusal(remade(root, fps=fps))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"bytes": b"garbage", "path": None}, "that cannot be decoded in its row 0"),
        ({"bytes": b"", "path": None}, "that cannot be decoded in its row 0"),
        ({"bytes": None, "path": "x.png"}, "without bytes in its row 0"),
        ({"path": "x.png"}, "without bytes in its row 0"),
        (None, "without bytes in its row 0"),
    ],
)
def test_images_that_are_none_are_refused(tmp_path, image, said):
    columns = lambda number, length: {CAMERA: [image] * length}  # noqa: E731
    assert said in refusal(made(tmp_path / "set", columns, {CAMERA: {"dtype": "image"}}))


def test_images_of_different_sides_are_refused(tmp_path):
    def columns(number, length):
        sizes = [(32, 48), (32, 40)] + [(32, 48)] * length
        coded = [cv2.imencode(".png", np.zeros((*side, 3), np.uint8))[1].tobytes() for side in sizes[:length]]
        return {CAMERA: [{"bytes": one, "path": None} for one in coded]}

    said = refusal(made(tmp_path / "set", columns, {CAMERA: {"dtype": "image"}}))
    assert "has other sides in its row 1 than before" in said


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        ([], "does not tell least and most"),
        ({"action": None}, "does not tell least and most"),
        ({"action": [0, 1]}, "does not tell least and most"),
        ({"action": {"min": ["a"], "max": [1]}}, "does not tell least and most"),
        ({"action": {"min": [2.0], "max": [1.0]}}, "does not tell least and most"),
        ({"action": {"min": [[0.0], [0.0, 1.0]], "max": [1.0]}}, "does not tell least and most"),
        (
            {"action": {"min": [0.0] * 3, "max": [1.0] * 3}},
            "'action' has 1 numbers and its bounds in meta/stats.json are 3",
        ),
    ],
)
def test_bounds_of_actions_are_checked(tmp_path, stats, said):
    root = made(tmp_path / "set")
    (root / "meta" / "stats.json").write_text(json.dumps(stats))
    refused = refusal(root, LeRobotReader(actions="min_max"))
    assert said in refused
    assert "use readers.lerobot.actions=as_is" in refused
