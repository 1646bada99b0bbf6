"""The embedded image data set: scikit-learn's 1,797 handwritten digits of 8x8 pixels."""

from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.base import SOURCES, Raw, RawTable, Source


@SOURCES.register("digits")
class Digits(Source):
    """Columns `image` (grey, 0..255) and `label` (0..9)."""

    def load(self, data_dir: Path | None) -> Raw:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        return Raw({"train": RawTable({"image": pixels, "label": digits.target}, (("digits", len(pixels)),))})

    def identity(self, data_dir: Path | None) -> dict[str, Any]:
        from importlib.metadata import version

        return {"scikit-learn": version("scikit-learn")}
