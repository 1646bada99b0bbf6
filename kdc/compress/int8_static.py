"""int8_static: int8 with ranges of activations measured beforehand, for convolutions too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from kdc.compress.base import PASSES
from kdc.compress.plan import ModulePrecision, Precision
from kdc.compress.quantizer import EightBits
from kdc.compress.wiring import rectified

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("int8_static")
class Int8Static(EightBits):
    """No range is measured while it serves, so a call has less to do; off where rows are unlike those it was shown.

    `method` tells the range of what a module reads (a convolution: and puts out) from what calibration rows make of it:
    `minmax` all of it, `percentile` all but the share outside on either side, `entropy` what loses least information
    (Migacz 2017, "8-bit inference with TensorRT"). LSTMs stay in float, since onnxruntime has none of this kind.
    """

    version: ClassVar[int] = 5
    name: Literal["int8_static"]
    method: Literal["minmax", "percentile", "entropy"] = "percentile"
    percentile: Annotated[float, Field(gt=50, lt=100)] = 99.99

    @property
    def precision(self) -> Precision:
        return "int8_static"

    @property
    def rows_to_see(self) -> int:
        return self.calibration_rows

    def computing(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        from kdc.compress.ranges import measured

        assert rows is not None
        found = measured(model, names, rows, method=self.method, percentile=self.percentile)
        own, positive = self.linear(), rectified(model, names, rows)
        planned = {}
        for name, (reads, *puts_out) in found.items():  # kernels of linears put out floats
            seen = [(0.0, max(high, 0.0)) if name in positive else (low, high) for low, high in puts_out]
            planned[name] = own.model_copy(update={"reads": reads, "puts_out": next(iter(seen), None)})
        return planned
