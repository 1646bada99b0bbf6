"""The idx format of MNIST: a big-endian header (type, axes, sizes), then the bytes; plain or gzip."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from kdc.data.base import SOURCES, Raw, RawTable, Source, find
from kdc.errors import KdcError

UNSIGNED_BYTE = 0x08


@SOURCES.register("idx")
class Idx(Source):
    """Columns `image` (grey) and `label` (the number), from a file of each a split."""

    train_images: str
    train_labels: str
    test_images: str | None = None
    test_labels: str | None = None

    def load(self, data_dir: Path | None) -> Raw:
        tables = {}
        for split in ("train", "test"):
            keys = [f"dataset.idx.{split}_{part}" for part in ("images", "labels")]
            paths = [self.paths().get(key) for key in keys]
            if paths == [None, None]:
                continue
            images_path, labels_path = (
                find(path, data_dir, key=key) if path else _absent(key) for path, key in zip(paths, keys, strict=True)
            )
            images, labels = read_idx(images_path, axes=3), read_idx(labels_path, axes=1)
            if len(images) != len(labels):
                raise KdcError(f"{images_path} has {len(images)} images, {labels_path} has {len(labels)} labels")
            tables[split] = RawTable(
                {"image": images[..., np.newaxis], "label": labels}, ((str(labels_path), len(labels)),)
            )
        return Raw(tables)

    def paths(self) -> dict[str, str]:
        return {f"dataset.idx.{key}": path for key, path in self.model_dump(exclude={"columns"}).items() if path}


def read_idx(path: Path, *, axes: int) -> np.ndarray:
    """The uint8 array of an idx file with so many axes."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise KdcError(f"{path} is a damaged gzip file ({error})", "get it again") from None
    if data[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
        raise KdcError(f"{path} is no idx file of unsigned bytes with {axes} axes (it starts with {data[:4].hex(' ')})")
    start = 4 + 4 * axes
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    if len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise KdcError(
            f"{path} is damaged: {len(data) - start} bytes where its header promises {shape}", "get it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _absent(key: str) -> Path:
    raise KdcError(f"{key} is not set", "images and labels come in two files")
