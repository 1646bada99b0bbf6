"""int8: dynamic quantization of linears and LSTMs, weights per channel, activations measured at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdc.compress.base import PASSES
from kdc.compress.plan import ModulePrecision, Precision
from kdc.compress.quantizer import EightBits

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("int8")
class Int8(EightBits):
    """Every linear and LSTM computes in int8; embeddings are stored in int8; convolutions stay in float.

    Jacob et al. 2018 (arXiv:1712.05877), section 2.1: real = scale * (q - zero_point). Dynamic int8 convolutions run
    slower than float ones in onnxruntime, so they are left alone; `int8_static` takes them too.
    """

    name: Literal["int8"]

    @property
    def precision(self) -> Precision:
        return "int8"

    def computing(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        return dict.fromkeys(names, self.linear())
