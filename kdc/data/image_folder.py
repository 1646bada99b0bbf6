"""Folders of pictures, one folder a class: `root/<split>/<class>/*.png`, or `root/<class>/*.png` without splits."""

from pathlib import Path
from typing import Literal

from kdc.data.base import SOURCES, Raw, RawTable, Source, find
from kdc.data.images import stack, to_array
from kdc.errors import KdcError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
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
        from PIL import Image, UnidentifiedImageError

        images, labels, origins = [], [], []
        for file in sorted(folder.glob("*/*")):
            if file.suffix.lower() in EXTENSIONS:
                try:
                    with Image.open(file) as picture:
                        images.append(to_array(picture, self.channels))
                except (UnidentifiedImageError, OSError) as error:
                    raise KdcError(f"{file} is not readable as a picture ({error})", "remove or replace it") from None
                labels.append(file.parent.name)
                origins.append((str(file), 1))
        if not images:
            raise KdcError(f"{folder} holds no pictures", "expected FOLDER/CLASS/PICTURE.png or .jpg")
        return RawTable({"image": stack(images), "label": labels}, tuple(origins))
