"""Image classification: one picture, one label."""

from __future__ import annotations

from typing import Any, ClassVar

from kdc.export.base import Port
from kdc.tasks.base import TASKS, Encoder
from kdc.tasks.classification import Classification
from kdc.tasks.image import ImageEncoder


@TASKS.register("image-classification")
class ImageClassification(Classification):
    name: ClassVar[str] = "image-classification"
    modality: ClassVar[str] = "image"
    encoder: ClassVar[type[Encoder]] = ImageEncoder
    columns: ClassVar[tuple[str, ...]] = ("image", "label")

    def model_class(self) -> Any:
        from transformers import AutoModelForImageClassification

        import kdc.models.nets  # noqa: F401  (teaches transformers the plain nets)

        return AutoModelForImageClassification

    def inputs(self, encoder: Encoder) -> tuple[Port, ...]:
        assert isinstance(encoder, ImageEncoder)
        return (Port("pixel_values", "float32", ("batch", encoder.channels, *encoder.size)),)
