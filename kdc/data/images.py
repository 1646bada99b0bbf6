"""Pictures as arrays: uint8 `[height, width, channels]`, stacked where all are equally large."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdc.errors import KdcError

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = ("1", "L", "I;16", "F")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


def pictures(folder: Path, pattern: str) -> list[Path]:
    """The files there that are pictures by their names, sorted."""
    return [file for file in sorted(folder.glob(pattern)) if file.suffix.lower() in EXTENSIONS]


def read_picture(file: Path, channels: int) -> np.ndarray:
    """Its pixels, grey (1) or RGB (3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return to_array(picture, channels)
    except (UnidentifiedImageError, OSError) as error:
        raise KdcError(f"{file} is not readable as a picture ({error})", "remove or replace it") from None


def to_array(picture: Image, channels: int | None = None) -> np.ndarray:
    """Pixels of a Pillow image; grey (1) or RGB (3) as it is stored unless `channels` says which."""
    channels = channels or (1 if picture.mode in GREY else 3)
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def stack(images: Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """`[rows, height, width, channels]`, or the images as they are where sizes differ."""
    return np.stack(images) if len({image.shape for image in images}) == 1 else list(images)
