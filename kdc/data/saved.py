"""Loaded splits on disk, so that a later run need not parse again: parquet, npy for images, JSON for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.examples import Examples, Splits

CONTENTS = "splits.json"


def save_splits(splits: Splits, folder: Path) -> None:
    """Write into `folder`, which exists; `read_splits` gives back equal splits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = {}
    for split, examples in splits.items():
        columns = dict(examples.columns)
        contents[split] = {"columns": list(columns), "labels": list(examples.labels)}
        if (images := columns.pop("image", None)) is not None:
            _save_images(images, folder / f"{split}.image.npy", folder / f"{split}.shapes.npy")
        arrays = {name: pa.array(column) for name, column in columns.items()}
        pq.write_table(pa.table(arrays), folder / f"{split}.parquet")
        if examples.extras:
            pq.write_table(pa.table(dict(examples.extras)), folder / f"{split}.extras.parquet")
    (folder / CONTENTS).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def read_splits(folder: Path) -> Splits:
    import pyarrow.parquet as pq

    splits: Splits = {}
    for split, contents in json.loads((folder / CONTENTS).read_text(encoding="utf-8")).items():
        table = pq.read_table(folder / f"{split}.parquet")
        columns: dict[str, Any] = {}
        for name in contents["columns"]:
            if name == "image":
                columns[name] = _read_images(folder / f"{split}.image.npy", folder / f"{split}.shapes.npy")
            elif name == "label":
                columns[name] = table.column(name).to_numpy()
            else:
                columns[name] = table.column(name).to_pylist()
        kept = folder / f"{split}.extras.parquet"
        extras = pq.read_table(kept).to_pydict() if kept.exists() else {}
        splits[split] = Examples(columns, tuple(contents["labels"]), extras)
    return splits


def _save_images(images: Any, pixels: Path, shapes: Path) -> None:
    if isinstance(images, np.ndarray):
        np.save(pixels, images)
    else:
        np.save(pixels, np.concatenate([image.ravel() for image in images]))
        np.save(shapes, np.array([image.shape for image in images], dtype=np.int64))


def _read_images(pixels: Path, shapes: Path) -> Any:
    flat = np.load(pixels, allow_pickle=False)
    if not shapes.exists():
        return flat
    sizes = np.load(shapes, allow_pickle=False)
    parts = np.split(flat, np.cumsum(sizes.prod(axis=1))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, sizes, strict=True)]
