"""Text classification: one sentence or a pair of them, one label."""

from __future__ import annotations

from typing import Any, ClassVar

from kdc.export.base import Port
from kdc.tasks.base import TASKS, Encoder
from kdc.tasks.classification import Classification
from kdc.tasks.text import TextEncoder


@TASKS.register("text-classification")
class TextClassification(Classification):
    name: ClassVar[str] = "text-classification"
    modality: ClassVar[str] = "text"
    encoder: ClassVar[type[Encoder]] = TextEncoder
    columns: ClassVar[tuple[str, ...]] = ("text", "label")

    def model_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        import kdc.models.text_nets  # noqa: F401  (teaches transformers the plain nets)

        return AutoModelForSequenceClassification

    def inputs(self, encoder: Encoder) -> tuple[Port, ...]:
        assert isinstance(encoder, TextEncoder)
        return tuple(Port(name, "int64", ("batch", "length")) for name in encoder.inputs)
