"""Videos that browsers and notebooks play."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from worldmodels.common.frames import gif_bytes
from worldmodels.errors import UserError

log = logging.getLogger(__name__)

CODECS = {"avc1": ".mp4", "VP80": ".webm"}
"""Codecs that browsers play, the best first, and the kind of file of each. OpenCV's build decides which there are."""
KINDS = (*CODECS.values(), ".gif")


def write_video(folder: Path, name: str, frames: UInt8[np.ndarray, "T H W 3"], rate: float | int) -> Path:
    """Write a video of ``rate`` frames a second: H.264 where there is an encoder, else WebM, else a GIF.

    Return its file, which replaces one of another kind and the same name.

    Raises:
        UserError: it cannot be written.
    """
    encoded = ((ending, encode(frames, rate, codec, ending)) for codec, ending in CODECS.items())
    ending, content = next((found for found in encoded if found[1]), (".gif", b""))
    _say(ending)
    file = folder / f"{name}{ending}"
    try:
        file.write_bytes(content or gif_bytes(frames, rate))
        for other in set(KINDS) - {ending}:
            (folder / f"{name}{other}").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written ({error.strerror}): make place for the video.") from error
    return file


def encode(frames: UInt8[np.ndarray, "T H W 3"], rate: float | int, codec: str, ending: str) -> bytes:
    """Return a video's bytes, or none where there is no such encoder.

    It is made among the temporary files, as OpenCV neither writes to every path nor says so.
    """
    with tempfile.TemporaryDirectory() as folder, _silence():
        file = Path(folder) / f"video{ending}"
        height, width = frames.shape[1:3]
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), rate, (width, height))
        if not writer.isOpened():
            return b""
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        return file.read_bytes() if file.exists() else b""


@functools.cache
def _say(ending: str) -> None:
    if ending != KINDS[0]:
        log.info("OpenCV has no H.264 encoder here: videos are %s files, which browsers play too", ending)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what FFmpeg writes about missing encoders and unusual tags from the terminal."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
