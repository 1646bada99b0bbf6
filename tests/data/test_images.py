"""Image folders, idx files and the embedded digits."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kdc.data.idx import read_idx
from kdc.errors import KdcError

RNG = np.random.default_rng(0)


def pictures(folder: Path, count: int, *, size: tuple[int, int] = (5, 4)) -> list[np.ndarray]:
    folder.mkdir(parents=True)
    arrays = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number:02}.png")
    return arrays


def idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_class_folders_without_splits(tmp_path: Path, load) -> None:
    cats, dogs = pictures(tmp_path / "cat", 10), pictures(tmp_path / "dog", 10)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    splits, report = load(image_folder={"path": str(tmp_path)}, task="image-classification")
    assert report.splits == {"train": 16, "validation": 2, "test": 2}
    assert report.labels == ["cat", "dog"]
    for examples in splits.values():
        assert examples["image"].dtype == np.uint8
        for image, label in zip(examples["image"], examples["label"], strict=True):
            assert any(np.array_equal(image, other) for other in (cats, dogs)[label])


def test_split_folders_and_pictures_of_several_sizes(tmp_path: Path, load) -> None:
    for split in ("train", "val", "test"):
        pictures(tmp_path / split / "a", 2)
        pictures(tmp_path / split / "b", 2, size=(3, 3))
    splits, report = load(
        task="image-classification", data_dir=tmp_path.parent, image_folder={"path": tmp_path.name, "channels": 1}
    )
    assert report.splits == {"train": 4, "validation": 4, "test": 4}
    assert [image.shape for image in splits["train"]["image"]] == [(5, 4, 1), (5, 4, 1), (3, 3, 1), (3, 3, 1)]


def test_image_folder_mistakes(tmp_path: Path, load) -> None:
    with pytest.raises(KdcError, match="holds no pictures; expected FOLDER/CLASS/PICTURE"):
        load(task="image-classification", image_folder={"path": str(tmp_path)})
    pictures(tmp_path / "cat", 2)
    (tmp_path / "cat" / "broken.png").write_text("no picture")
    with pytest.raises(KdcError, match=r"broken\.png is not readable as a picture"):
        load(task="image-classification", image_folder={"path": str(tmp_path)})
    with pytest.raises(KdcError, match=r"dataset\.image_folder\.path: .* is no folder"):
        load(task="image-classification", image_folder={"path": str(tmp_path / "cat" / "broken.png")})


def test_idx_plain_and_gzip(tmp_path: Path, load) -> None:
    images = RNG.integers(0, 256, (40, 3, 2), dtype=np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 10
    idx(tmp_path / "images.gz", images)
    idx(tmp_path / "labels", labels)
    files = {"train_images": "images.gz", "train_labels": "labels"}
    both = files | {"test_images": "images.gz", "test_labels": "labels"}
    splits, report = load(task="image-classification", data_dir=tmp_path, idx=both)
    assert np.array_equal(splits["test"]["image"], images[..., None])
    assert np.array_equal(splits["test"]["label"], labels)
    assert report.labels == [str(i) for i in range(10)]
    assert report.splits == {"train": 36, "validation": 4, "test": 40}
    assert report.overlap["test"] == 36
    with pytest.raises(KdcError, match=r"dataset\.idx\.test_labels is not set"):
        load(task="image-classification", data_dir=tmp_path, idx=files | {"test_images": "images.gz"})
    idx(tmp_path / "labels", labels[:-1])
    with pytest.raises(KdcError, match=r"40 images, .* 39 labels"):
        load(task="image-classification", data_dir=tmp_path, idx=files)


def test_damaged_idx_files(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    idx(path, np.zeros((4, 3, 2), dtype=np.uint8))
    with pytest.raises(KdcError, match="with 1 axes"):
        read_idx(path, axes=1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(KdcError, match="damaged gzip"):
        read_idx(path, axes=3)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(KdcError, match=r"23 bytes where its header promises \(4, 3, 2\)"):
        read_idx(path, axes=3)


def test_digits_are_scikit_learns_in_full_range(load) -> None:
    splits, report = load(digits={}, task="image-classification", test=0.2)
    assert report.splits == {"train": 1258, "validation": 180, "test": 359}
    together = np.concatenate([examples["image"] for examples in splits.values()])
    assert together.dtype == np.uint8
    assert together.shape == (1797, 8, 8, 1)
    assert together.max() == 255
    original = load_digits()
    first = np.rint(original.images[0] * 255 / 16).astype(np.uint8)[..., None]
    where = np.flatnonzero((together == first).all(axis=(1, 2, 3)))
    labels = np.concatenate([examples["label"] for examples in splits.values()])
    assert original.target[0] in labels[where]
