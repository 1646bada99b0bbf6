"""Folders of pictures, one folder a class: `root/<split>/<class>/*.png`, or `root/<class>/*.png` without splits."""

from pathlib import Path
from typing import Literal

from kdc.data.base import SOURCES, Raw, RawTable, Source, find
from kdc.data.images import pictures, read_picture, stack
from kdc.errors import KdcError

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@SOURCES.register("image_folder")
class ImageFolder(Source):
    """Columns `image` (grey or RGB by `channels`) and `label` (the name of the folder)."""

    path: str
    channels: Literal[1, 3] = 3

    def load(self, data_dir: Path | None) -> Raw:
        root = find(self.path, data_dir, key="dataset.image_folder.path")
        if not root.is_dir():
            raise KdcError(f"dataset.image_folder.path: {root} is no folder", "it holds a folder a class")
        splits = {
            split: root / name for split, names in SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()
        }
        if "train" not in splits:
            splits = {"train": root}
        return Raw({split: self._read(folder) for split, folder in splits.items()})

    def paths(self) -> dict[str, str]:
        return {"dataset.image_folder.path": self.path}

    def _read(self, folder: Path) -> RawTable:
        files = pictures(folder, "*/*")
        if not files:
            raise KdcError(f"{folder} holds no pictures", "expected FOLDER/CLASS/PICTURE.png or .jpg")
        images = stack([read_picture(file, self.channels) for file in files])
        labels = [file.parent.name for file in files]
        return RawTable({"image": images, "label": labels}, tuple((str(file), 1) for file in files))
