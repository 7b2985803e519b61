"""Columns of LeRobot's parquet files as arrays, and the frames of its images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from worldmodels.data.readers.base import require_package
from worldmodels.errors import UserError, sentence, shown

WHAT = "LeRobot's datasets"


def numbers(source: str, rows: Any, key: str, width: int | None = None) -> np.ndarray:
    """Return a column as numbers [T, n]. Refuse one that is missing, of no numbers, or not ``width`` wide."""
    values = _column(source, rows, key)
    try:
        found = np.asarray(values).reshape(rows.num_rows, -1)
    except ValueError:  # lists of different lengths, or nothing in place of one
        found = np.empty((rows.num_rows, 0), object)
    if found.dtype.kind not in "biuf" or not found.shape[1] or found.shape[1] != (width or found.shape[1]):
        odd = next((row for row, value in enumerate(values) if _size(value) != _size(values[0]) or value is None), 0)
        told = f"{shown(values[odd])} in its row {odd}, where {width or 'as many'} numbers in each are expected"
        raise UserError(f"{source}: {key!r} is {told}.")
    return found


def decoded_images(source: str, rows: Any, key: str) -> UInt8[np.ndarray, "T C H W"]:
    """Return the frames of a column of coded images. Refuse what is none, and frames of different sides."""
    found: list[np.ndarray] = []
    for row, image in enumerate(_column(source, rows, key)):
        coded = image.get("bytes") if isinstance(image, dict) else image
        frame = _decoded(coded) if isinstance(coded, bytes) and coded else None
        if frame is None:
            what = "without bytes" if not isinstance(coded, bytes) else "that cannot be decoded"
            raise UserError(f"{source}: {key!r} holds an image {what} in its row {row}: write PNG or JPEG bytes there.")
        if found and frame.shape != found[0].shape:
            raise UserError(f"{source}: {key!r} has other sides in its row {row} than before: make them of one size.")
        found.append(frame)
    return np.stack(found).transpose(0, 3, 1, 2)


def decoded_video(path: Path, times: np.ndarray, fps: float) -> UInt8[np.ndarray, "T C H W"]:
    """Return the frames of a video at these seconds, each within half a frame of its time."""
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
    except (OSError, ValueError, IndexError, TypeError) as error:  # av's own errors, no video in it, a frame untimed
        raise UserError(f"{path} cannot be read as a video: {sentence(shown(error))}") from error
    if len(found) < len(times):
        raise UserError(f"{path} has {len(found)} frames of the {len(times)} behind second {times[0]:.3f}.")
    return np.stack(found)


def _column(source: str, rows: Any, key: str) -> list[Any]:
    if rows.column_names.count(key) != 1:
        raise UserError(f"{source}: {key!r} is no column of its parquet files: the folder is not whole.")
    return rows[key].to_pylist()


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list) else 1


def _decoded(coded: bytes) -> np.ndarray | None:
    """Return an image in red, green and blue, or None where it is none."""
    frame = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
    return None if frame is None else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
