"""int8: dynamic quantization of linears and LSTMs, weights per channel, activations measured at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.plan import ModulePrecision, Precision, PrecisionPlan
from kdc.compress.scope import chosen
from kdc.machine import has_int8_dot

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration

LINEARS = ("Linear", "Conv1D", "LSTM")
"""Modules that multiply by matrices: an LSTM by two a direction, its gates stay in float."""


@PASSES.register("int8")
class Int8(Pass):
    """Every linear and LSTM computes in int8; embeddings are stored in int8; convolutions stay in float.

    Jacob et al. 2018 (arXiv:1712.05877), section 2.1: real = scale * (q - zero_point). Dynamic int8 convolutions run
    slower than float ones in onnxruntime, so they are left alone. Without a dot-product instruction (VNNI) pairs of
    products saturate in 16 bits: `reduce_range` keeps weights to 7 bits there (`null`: decide by this machine's CPU).
    `include` and `exclude` are shell patterns of module names.
    """

    precision: ClassVar[Precision | None] = "int8"
    name: Literal["int8"]
    per_channel: bool = True
    reduce_range: bool | None = None
    embeddings: bool = True
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    def resolved(self) -> Self:
        return self if self.reduce_range is not None else self.model_copy(update={"reduce_range": not has_int8_dot()})

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        reduce_range = bool(self.resolved().reduce_range)
        linear = ModulePrecision(dtype="int8", per_channel=self.per_channel, reduce_range=reduce_range)
        stored = ModulePrecision(dtype="int8", weights_only=True, reduce_range=reduce_range)
        eligible = {
            name: kind
            for name, module in model.named_modules(remove_duplicate=False)  # shared layers have nodes of their own
            if (kind := type(module).__name__) in LINEARS or (kind == "Embedding" and self.embeddings)
        }
        names, left = chosen(self.name, eligible, self.include, self.exclude)
        modules = {name: linear if eligible[name] in LINEARS else stored for name in names}
        planned = {"modules": {**plan.modules, **modules}, "excluded": {**plan.excluded, **left}}
        return Done(model, plan.model_copy(update=planned))
