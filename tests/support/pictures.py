"""What pictures must be."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def assert_animated(encoded: bytes, frames: int) -> None:
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "GIF"
        assert image.n_frames == frames
        shown = []
        for index in range(frames):
            image.seek(index)
            shown.append(np.asarray(image.convert("RGB")).copy())
    assert any(not np.array_equal(one, shown[0]) for one in shown[1:])
