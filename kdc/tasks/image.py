"""The encoder of image tasks: resize, rescale, normalize; reads and writes transformers' `preprocessor_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.tasks.base import Encoded, Encoder

SETTINGS = "preprocessor_config.json"
MODES = {1: "L", 3: "RGB"}


class ImageEncoder(Encoder):
    """`image` (uint8 `[height, width, channels]`) -> `pixel_values`, float32 `[batch, channels, height, width]`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        size = settings["size"]
        if not {"height", "width"} <= set(size):
            raise KdcError(
                f"{SETTINGS}: size {dict(size)} is not a fixed height and width", "set dataset.image_size=224 or so"
            )
        if settings.get("do_center_crop"):
            raise KdcError(
                f"{SETTINGS}: do_center_crop is not supported", "set it to false, with the size to resize to"
            )
        self._settings = dict(settings)
        self.size = (int(size["height"]), int(size["width"]))
        self.channels = len(settings["image_mean"])
        scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
        mean, std = (np.asarray(settings[key], dtype=np.float32) for key in ("image_mean", "image_std"))
        if not settings.get("do_normalize", True):
            mean, std = np.zeros_like(mean), np.ones_like(std)
        self._factor = (np.float32(scale) / std).reshape(1, -1, 1, 1)
        self._offset = (mean / std).reshape(1, -1, 1, 1)

    @classmethod
    def fit(cls, train: Examples, size: int | None) -> ImageEncoder:
        """For a model from scratch: size and channels of the first image, mean and deviation of the training split."""
        images = train["image"]
        height, width, channels = images[0].shape
        settings: dict[str, Any] = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": size or height, "width": size or width},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.0] * channels,
            "image_std": [1.0] * channels,
        }
        plain = cls(settings)
        stacked = np.stack([row["pixels"] for row in plain.encode(train)]).astype(np.float64) / 255
        settings["image_mean"] = [float(v) for v in stacked.mean(axis=(0, 1, 2))]
        settings["image_std"] = [float(max(v, 1e-3)) for v in stacked.std(axis=(0, 1, 2))]
        return cls(settings)

    def encode(self, examples: Examples) -> Encoded:
        return [{"pixels": self._resize(image)} for image in examples["image"]]

    def _resize(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == self.size and image.shape[2] == self.channels:
            return image
        from PIL import Image

        picture = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image)
        picture = picture.convert(MODES[self.channels])
        resized = picture.resize((self.size[1], self.size[0]), Image.Resampling(self._settings.get("resample", 2)))
        return np.asarray(resized).reshape(*self.size, self.channels)

    def length(self, encoded: Mapping[str, Any]) -> int:
        return 1

    def collate(self, encoded: Sequence[Mapping[str, Any]], *, length: int | None = None) -> Arrays:
        stacked = np.stack([row["pixels"] for row in encoded]).transpose(0, 3, 1, 2).astype(np.float32)
        return {"pixel_values": stacked * self._factor - self._offset}

    def save(self, folder: Path) -> None:
        (folder / SETTINGS).write_text(json.dumps(self._settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ImageEncoder:
        return cls(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
