"""int4_weights: weights stored in 4 bits, a scale for every few inputs; embeddings in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdc.compress.base import PASSES
from kdc.compress.plan import ModulePrecision, Precision
from kdc.compress.quantizer import Quantizer

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("int4_weights")
class Int4Weights(Quantizer):
    """An eighth of the bytes of fp32 and the scales: smallest where weights are what takes time to read.

    Every `group` inputs of an output share a scale (symmetric, rounded to nearest). Activations are rounded to 8 bits
    in groups of as many while it serves, which changes little.
    """

    name: Literal["int4_weights"]
    group: Literal[16, 32, 64, 128, 256] = 32

    @property
    def precision(self) -> Precision:
        return "int4_weights"

    def precisions(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        return dict.fromkeys(names, ModulePrecision(dtype="int4", weights_only=True, group=self.group))
