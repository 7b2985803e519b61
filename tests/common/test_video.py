"""Videos play where people look, as fast as what they show."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from worldmodels.common import video
from worldmodels.common.video import write_video
from worldmodels.errors import UserError

FRAMES = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("rate", [4.0, 12.5, 30, 100 / 3])
def test_a_video_has_its_frames_its_rate_and_a_codec_of_the_web(tmp_path, rate, capfd):
    file = write_video(tmp_path / ".", "50 % of é", FRAMES, rate)
    copy = tmp_path / f"copy{file.suffix}"
    copy.write_bytes(file.read_bytes())
    reader = cv2.VideoCapture(str(copy))
    assert int(reader.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").lower() in (b"avc1", b"h264", b"vp80")
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=0.02)
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == len(FRAMES)
    assert capfd.readouterr().err == ""


def test_without_encoders_it_is_a_gif_and_that_is_said_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    video._say.cache_clear()
    monkeypatch.setattr(video, "CODECS", {"none": ".mp4"})
    (tmp_path / "evaluation.mp4").touch()
    for _ in range(2):
        assert write_video(tmp_path, "evaluation", FRAMES, 12.5).name == "evaluation.gif"
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.gif"], "no older one of another kind"
    assert caplog.text.count("no H.264 encoder") == 1
    image = Image.open(tmp_path / "evaluation.gif")
    assert (image.n_frames, image.info["duration"]) == (12, 80)


def test_a_video_that_cannot_be_written_is_one_sentence(tmp_path):
    for ending in video.KINDS:
        (tmp_path / f"evaluation{ending}").mkdir()
    with pytest.raises(UserError, match=r"evaluation\.\w+ cannot be written \(Is a directory\)"):
        write_video(tmp_path, "evaluation", FRAMES, 10)
    with pytest.raises(UserError, match="No such file"):
        write_video(tmp_path / "missing", "evaluation", FRAMES, 10)


def seconds_and_frames(file) -> tuple[float, list[float]]:
    """How long a video lasts, and the mean colour of each of its frames as it is decoded."""
    reader, seen = cv2.VideoCapture(str(file)), []
    rate = reader.get(cv2.CAP_PROP_FPS)
    while (read := reader.read())[0]:
        seen.append(read[1].mean())
    return len(seen) / rate, seen


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.75, 0.99, 1, 1.5])
def test_slow_videos_last_as_long_as_what_they_show(tmp_path, rate):
    shades = np.stack([np.full((16, 16, 3), shade, np.uint8) for shade in (20, 120, 220)])
    file = write_video(tmp_path, "slow", shades, rate)
    assert file.suffix in (".mp4", ".webm")
    seconds, seen = seconds_and_frames(file)
    assert seconds == pytest.approx(3 / rate, rel=0.02)
    assert np.allclose(seen[:: len(seen) // 3], (20, 120, 220), atol=8)


@pytest.mark.parametrize("size", [(2, 2), (1, 1), (2, 300), (63, 65), (33, 1)])
def test_a_video_of_odd_frames_has_all_of_them(tmp_path, size):
    """Where an encoder drops some or cuts them, the next kind is written."""
    shades = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    file = write_video(tmp_path, "odd", np.tile(shades, (1, *size, 3)), 10)
    if file.suffix == ".gif":
        assert Image.open(file).n_frames == 5
    else:
        assert video.readable(file) == (5, *size)


def test_a_torn_video_is_never_given_out(tmp_path, monkeypatch, caplog):
    """As where the disk of temporary files is full: OpenCV says nothing of it."""

    class Torn:
        def __init__(self, file, *args):
            self.writer, self.left = cv2_writer(file, *args), 7

        def write(self, frame):
            self.left -= 1
            if self.left >= 0:
                self.writer.write(frame)

        def __getattr__(self, name):
            return getattr(self.writer, name)

    cv2_writer = cv2.VideoWriter
    Torn.fourcc = staticmethod(cv2_writer.fourcc)
    monkeypatch.setattr(video.cv2, "VideoWriter", Torn)
    assert write_video(tmp_path, "torn", FRAMES, 10).name == "torn.gif"
    assert "12 frames of 48x32 were encoded, 7 of 48x32 can be read back" in caplog.text
    assert Image.open(tmp_path / "torn.gif").n_frames == 12


def test_without_temporary_files_it_is_a_gif(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video.tempfile, "tempdir", str(tmp_path / "missing"))
    assert write_video(tmp_path, "none", FRAMES, 10).name == "none.gif"
    assert "among the temporary files (No such file or directory)" in caplog.text
