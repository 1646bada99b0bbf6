"""int8_weights: weights stored in int8, a scale for every few inputs."""

from __future__ import annotations

from typing import ClassVar, Literal

from kdc.compress.base import PASSES
from kdc.compress.plan import Precision
from kdc.compress.quantizer import InGroups


@PASSES.register("int8_weights")
class Int8Weights(InGroups):
    """A quarter of the bytes of fp32, closest to its answers: for models whose weights are what takes time to read."""

    dtype: ClassVar[Literal["int8", "int4"]] = "int8"
    name: Literal["int8_weights"]

    @property
    def precision(self) -> Precision:
        return "int8_weights"
