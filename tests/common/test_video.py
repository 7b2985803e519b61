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
