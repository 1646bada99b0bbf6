"""Pictures as arrays: uint8 `[height, width, channels]`, stacked where all are equally large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = ("1", "L", "I;16", "F")


def to_array(picture: Image, channels: int | None = None) -> np.ndarray:
    """Pixels of a Pillow image; grey (1) or RGB (3) as it is stored unless `channels` says which."""
    channels = channels or (1 if picture.mode in GREY else 3)
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def stack(images: Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """`[rows, height, width, channels]`, or the images as they are where sizes differ."""
    return np.stack(images) if len({image.shape for image in images}) == 1 else list(images)
