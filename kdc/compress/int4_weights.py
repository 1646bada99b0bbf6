"""int4_weights: weights stored in 4 bits, a scale for every few inputs; embeddings in int8."""

from __future__ import annotations

from typing import ClassVar, Literal

from kdc.compress.base import PASSES
from kdc.compress.plan import Precision
from kdc.compress.quantizer import InGroups


@PASSES.register("int4_weights")
class Int4Weights(InGroups):
    """An eighth of the bytes of fp32 and the scales: smallest where weights are what takes time to read."""

    dtype: ClassVar[Literal["int8", "int4"]] = "int4"
    name: Literal["int4_weights"]

    @property
    def precision(self) -> Precision:
        return "int4_weights"
