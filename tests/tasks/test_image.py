"""The image encoder against transformers' own processor on the `preprocessor_config.json` that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.tasks.image import SETTINGS, ImageEncoder
from tests import tiny


def settings(**changes: Any) -> dict[str, Any]:
    plain = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 8, "width": 10},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    return plain | changes


def transformers_say(folder: Path, images: list[np.ndarray]) -> np.ndarray:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil.from_pretrained(folder)
    pictures = [Image.fromarray(image) for image in images]
    return processor(pictures, return_tensors="np")["pixel_values"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"resample": 3}, {"resample": 0}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 0.5}],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_equals_transformers_on_pictures_of_any_size(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = ImageEncoder(settings(**changes))
    encoder.save(tmp_path)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, size=(*size, 3), dtype=np.uint8) for size in ((20, 31), (8, 10), (5, 4))]
    ours = encoder.collate(encoder.encode(Examples({"image": images})))["pixel_values"]
    assert ours.dtype == np.float32
    assert ours.shape == (3, 3, 8, 10)
    np.testing.assert_allclose(ours, transformers_say(tmp_path, images), rtol=1e-5, atol=1e-5)
    again = ImageEncoder.load(tmp_path)
    np.testing.assert_array_equal(again.collate(again.encode(Examples({"image": images})))["pixel_values"], ours)


def test_settings_that_this_encoder_does_not_follow_are_refused() -> None:
    with pytest.raises(KdcError, match="is not a fixed height and width"):
        ImageEncoder(settings(size={"shortest_edge": 8}))
    with pytest.raises(KdcError, match="do_center_crop"):
        ImageEncoder(settings(do_center_crop=True, crop_size={"height": 4, "width": 4}))


def test_fit_takes_size_mean_and_deviation_from_the_training_split() -> None:
    train = tiny.pictures(40, side=6, channels=3)
    encoder = ImageEncoder.fit(train, None)
    assert encoder.size == (6, 6)
    assert encoder.channels == 3
    pixels = encoder.collate(encoder.encode(train))["pixel_values"]
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(pixels.std(axis=(0, 2, 3)), 1, atol=1e-4)
    assert ImageEncoder.fit(train, 4).size == (4, 4)


def test_colour_becomes_grey_and_grey_becomes_colour() -> None:
    colour = np.zeros((4, 4, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)
    grey = settings(size={"height": 4, "width": 4}, image_mean=[0.0], image_std=[1.0])
    encoder = ImageEncoder(grey)
    batch = encoder.collate(encoder.encode(Examples({"image": [colour, colour[..., :1]]})))["pixel_values"]
    assert batch.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(batch[0], 76 / 255, atol=1e-6)  # ITU-R 601: 0.299 of 255
    np.testing.assert_allclose(batch[1], 1.0)
    wide = ImageEncoder(settings(size={"height": 4, "width": 4}, image_mean=[0.0] * 3, image_std=[1.0] * 3))
    batch = wide.collate(wide.encode(Examples({"image": [colour[..., :1]]})))["pixel_values"]
    np.testing.assert_allclose(batch, 1.0)


def test_saves_the_file_that_transformers_reads(tmp_path: Path) -> None:
    ImageEncoder(settings()).save(tmp_path)
    assert json.loads((tmp_path / SETTINGS).read_text(encoding="utf-8")) == settings()
