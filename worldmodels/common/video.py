"""Videos that browsers and notebooks play."""

from __future__ import annotations

import functools
import logging
import math
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
SLOWEST = 1
"""Frames a second below which no decoder reads what these encoders write."""


class _TornError(Exception):
    """An encoder has written something else than it was given."""


def write_video(folder: Path, name: str, frames: UInt8[np.ndarray, "T H W 3"], rate: float | int) -> Path:
    """Write a video of ``rate`` frames a second: H.264 where there is an encoder, else WebM, else a GIF.

    Return its file, which replaces one of another kind and the same name.

    Raises:
        UserError: it cannot be written.
    """
    ending, content = encoded(frames, rate)
    file = folder / f"{name}{ending}"
    try:
        file.write_bytes(content)
        for other in set(KINDS) - {ending}:
            (folder / f"{name}{other}").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written ({error.strerror}): make place for the video.") from error
    return file


def encoded(frames: UInt8[np.ndarray, "T H W 3"], rate: float | int) -> tuple[str, bytes]:
    """Return the ending and the bytes of the best kind that can be made. What is torn or missing is told."""
    lacking = False
    for codec, ending in CODECS.items():
        try:
            content = encode(frames, rate, codec, ending)
        except (OSError, _TornError) as error:
            why = getattr(error, "strerror", None) or error
            log.warning("no %s video could be made among the temporary files (%s): another kind is tried", ending, why)
            continue
        if content:
            break
        lacking = True
    else:
        ending, content = ".gif", gif_bytes(frames, rate)
    if lacking:
        _say(ending)
    return ending, content


def encode(frames: UInt8[np.ndarray, "T H W 3"], rate: float | int, codec: str, ending: str) -> bytes:
    """Return a video's bytes, or none where there is no such encoder. Slow ones show each frame several times.

    It is made among the temporary files, as OpenCV neither writes to every path nor says so. It is read back, as
    OpenCV does not say either what a full disk or an odd size has left of it.

    Raises:
        _TornError: not all frames can be read back.
        OSError: there is no place for temporary files.
    """
    times = max(1, math.ceil(SLOWEST / rate))
    with tempfile.TemporaryDirectory() as folder, _silence():
        file = Path(folder) / f"video{ending}"
        height, width = frames.shape[1:3]
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), rate * times, (width, height))
        if not writer.isOpened():
            return b""
        for frame in frames:
            for _ in range(times):
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        found, wanted = readable(file), (len(frames) * times, height, width)
        if found != wanted:
            back = f"{found[0]} of {found[2]}x{found[1]}" if found[0] else "none"
            raise _TornError(f"{wanted[0]} frames of {width}x{height} were encoded, {back} can be read back")
        return file.read_bytes()


def readable(file: Path) -> tuple[int, int, int]:
    """Return how many frames a video holds, their height and their width, by decoding all."""
    reader, count = cv2.VideoCapture(str(file)), 0
    while reader.grab():
        count += 1
    size = int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(reader.get(cv2.CAP_PROP_FRAME_WIDTH))
    reader.release()
    return count, *size


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
