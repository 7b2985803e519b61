"""Images of Gymnasium as this project's frames: of any side, one to four channels, and scaled by their bounds."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from worldmodels.errors import UserError

CHANNELS = range(1, 5)
RANGES = ((0, 1), (0, 255), (-1, 1))
"""Bounds by which numbers that are not uint8 are known to be an image."""
SURE = 8
"""Sides from which on an image is nothing else. Smaller ones, a board for example, are what env.obs says they are."""
SLACK = 1e-4
"""Share of its range by which a float image may overshoot: resizing does."""


def looks_like_image(space: spaces.Space) -> bool:
    """Return whether a space can be read as an image: [H, W], or one to four channels first or last, and its bounds."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3) or not all(space.shape):
        return False
    if len(space.shape) == 3 and not {space.shape[0], space.shape[-1]} & set(CHANNELS):
        return False
    return space.dtype == np.uint8 or (float(space.low.min()), float(space.high.max())) in RANGES


def surely_image(space: spaces.Space) -> bool:
    """Return whether a space is an image and nothing else: of bytes, or with channels, and not tiny."""
    if not looks_like_image(space):
        return False
    return min(sides(space)) >= SURE and (len(space.shape) == 3 or space.dtype == np.uint8)


class Images:
    """Reads images as uint8 [C, S, S]. ``note`` says what was made of them, where it was more than a copy.

    C is 3. Two or four channels in front are that many grey frames, the newest last, as Gymnasium stacks them: C is 3
    for each. Of four channels at the end the last is opacity and left out, and of two the third is black.

    Args:
        name: of the environment.
        space: a Box that :func:`looks_like_image`.
        size: S. Without one the image keeps its sides, [C, H, W], as a recording does.
    """

    def __init__(self, name: str, space: spaces.Box, size: int | None) -> None:
        self.name, self._space, self._size = name, space, size
        self._first = len(space.shape) == 3 and space.shape[-1] not in CHANNELS
        channels = 1 if len(space.shape) == 2 else space.shape[0 if self._first else -1]
        self._frames = channels if self._first and channels in (2, 4) else 1
        self._low, self._high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        self._copied = space.dtype == np.uint8 and not self._low.any() and (self._high == 255).all()
        self.channels = 3 * self._frames
        self.note = self._described(channels)

    def read(self, raw: Any) -> UInt8[np.ndarray, "C H W"]:
        """Return an image. Raise :class:`UserError` for one that is not as it was declared."""
        image = np.asarray(raw)
        if image.shape != self._space.shape or image.dtype.kind not in "biuf":
            raise UserError(
                f"{self.name} returned an image {image.dtype} {image.shape} where it declares {self._space.dtype} "
                f"{self._space.shape}; mend the environment."
            )
        if not (self._copied and image.dtype == np.uint8):
            image = self._scaled(image)
        image = np.moveaxis(image, 0, -1) if self._first else image
        image = image.reshape(*sides(self._space), -1) if self._size is None else fit(image, self._size)
        return as_frames(image, self._frames)

    def _scaled(self, image: np.ndarray) -> np.ndarray:
        """Map the declared range to 0 to 255. What cannot vary is 0."""
        span = self._high - self._low
        near = SLACK * span if self._space.dtype.kind == "f" else 0.0
        fits = (image >= self._low - near).all() and (image <= self._high + near).all()
        if not fits or (image.dtype.kind == "f" and self._space.dtype.kind != "f"):
            raise UserError(
                f"{self.name} returned an image {image.dtype} from {image.min():g} to {image.max():g} where it "
                f"declares {self._space.dtype} from {self._low.min():g} to {self._high.max():g}; mend its "
                "observation_space or the image."
            )
        unit = np.divide(image - self._low, span, out=np.zeros(image.shape), where=span > 0)
        return np.rint(255 * unit.clip(0, 1)).astype(np.uint8)

    def _described(self, channels: int) -> str:
        shape, done = sides(self._space), []
        if self._size is not None and shape != (self._size, self._size):
            stretched = "" if shape[0] == shape[1] else ", which changes their proportions"
            done.append(f"images of {shape[0]}x{shape[1]} are resized to {self._size}x{self._size}{stretched}")
        if not self._copied:
            done.append(f"values from {self._low.min():g} to {self._high.max():g} are scaled to 0 to 255")
        if self._frames > 1:
            done.append(f"{channels} channels in front are that many grey frames, the newest last")
        elif channels == 4:
            done.append("the fourth channel, opacity, is left out")
        elif channels == 2:
            done.append("two channels are red and green")
        return f"{self.name}: {'; '.join(done)}" if done else ""


def fit(image: np.ndarray, size: int) -> UInt8[np.ndarray, "S S C"]:
    """Resize uint8 [H, W] or [H, W, C] to a square. Averaging over areas keeps small things visible."""
    image = np.ascontiguousarray(image)
    if image.shape[:2] != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image.reshape(size, size, -1)


def as_frames(image: UInt8[np.ndarray, "H W C"], frames: int = 1) -> UInt8[np.ndarray, "D H W"]:
    """Turn one to four channels into colours, or each into a grey frame of its own."""
    if frames > 1 or image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    elif image.shape[-1] == 2:
        image = np.pad(image, ((0, 0), (0, 0), (0, 1)))
    return np.ascontiguousarray(image[..., : 3 * frames].transpose(2, 0, 1))


def sides(space: spaces.Box) -> tuple[int, int]:
    """Return height and width."""
    first = len(space.shape) == 3 and space.shape[-1] not in CHANNELS
    return tuple(space.shape[1:] if first else space.shape[:2])
