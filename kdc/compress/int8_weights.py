"""int8_weights: weights stored in int8, a scale for every few inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdc.compress.base import PASSES
from kdc.compress.plan import ModulePrecision, Precision
from kdc.compress.quantizer import Quantizer

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("int8_weights")
class Int8Weights(Quantizer):
    """A quarter of the bytes of fp32, closest to its answers: for models whose weights are what takes time to read.

    Every `group` inputs of an output share a scale (symmetric, rounded to nearest). Activations are rounded to 8 bits
    in groups of as many while it serves, which changes little.
    """

    name: Literal["int8_weights"]
    group: Literal[16, 32, 64, 128, 256] = 32

    @property
    def precision(self) -> Precision:
        return "int8_weights"

    def precisions(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        return dict.fromkeys(names, ModulePrecision(dtype="int8", weights_only=True, group=self.group))
