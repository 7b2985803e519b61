"""Frames as arrays and as files: conversions, borders, animations."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


def last_frame(images: Shaped[Tensor, "... C S S"]) -> Shaped[Tensor, "... 3 S S"]:
    """The last frame of each stack (``env.stack``): what people look at, and all of it that is to be foreseen."""
    return images[..., -3:, :, :]


def to_uint8(images: Tensor) -> UInt8[np.ndarray, "..."]:
    """[0, 1] to [0, 255]."""
    return (images.clamp(0, 1) * 255).round().byte().cpu().numpy()


def border(image: UInt8[np.ndarray, "H W 3"], color: tuple[int, int, int]) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A coloured frame of one pixel in 32."""
    width = max(1, image.shape[0] // 32)
    return cv2.copyMakeBorder(image, *[width] * 4, cv2.BORDER_CONSTANT, value=color)


def enlarge(image: UInt8[np.ndarray, "H W 3"], side: int = 128) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Whole-number magnification to about ``side`` pixels a frame, without smoothing."""
    factor = max(1, side // image.shape[0])
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def gif_bytes(frames: UInt8[np.ndarray, "T H W 3"], fps: float | int = 10) -> bytes:
    """Encode an endless animation."""
    images = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in frames]
    stream = io.BytesIO()
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], duration=max(20, round(1000 / fps)), loop=0)
    return stream.getvalue()


def add_gif(writer: SummaryWriter, tag: str, frames: UInt8[np.ndarray, "T H W 3"], step: int) -> None:
    """Write an animation as an image summary. TensorBoard plays GIFs, and ``add_video`` would need moviepy."""
    _, height, width, _ = frames.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif_bytes(frames))
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def write_png(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a still image."""
    Image.fromarray(image).save(path)
