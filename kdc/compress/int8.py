"""int8: dynamic quantization of linears and LSTMs, weights per channel, activations measured at run time."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from kdc.compress.base import PASSES, Pass
from kdc.compress.plan import ModulePrecision, Precision, PrecisionPlan
from kdc.errors import KdcError
from kdc.machine import has_int8_dot

if TYPE_CHECKING:
    from torch import nn

LINEARS = ("Linear", "Conv1D", "LSTM")
"""Modules that multiply by matrices: an LSTM by two a direction, its gates stay in float."""


@PASSES.register("int8")
class Int8(Pass):
    """Every linear and LSTM computes in int8; embeddings are stored in int8; convolutions stay in float.

    Jacob et al. 2018 (arXiv:1712.05877), section 2.1: real = scale * (q - zero_point). Dynamic int8 convolutions run
    slower than float ones in onnxruntime, so they are left alone. Without a dot-product instruction (VNNI) pairs of
    products saturate in 16 bits: `reduce_range` keeps weights to 7 bits there (`null`: decide by this machine's CPU).
    `exclude` are shell patterns of module names to leave in float.
    """

    precision: ClassVar[Precision | None] = "int8"
    name: Literal["int8"]
    per_channel: bool = True
    reduce_range: bool | None = None
    embeddings: bool = True
    exclude: list[str] = Field(default_factory=list)

    def resolved(self) -> Self:
        return self if self.reduce_range is not None else self.model_copy(update={"reduce_range": not has_int8_dot()})

    def apply(self, model: nn.Module, plan: PrecisionPlan) -> tuple[nn.Module, PrecisionPlan]:
        reduce_range = bool(self.resolved().reduce_range)
        linear = ModulePrecision(dtype="int8", per_channel=self.per_channel, reduce_range=reduce_range)
        stored = ModulePrecision(dtype="int8", weights_only=True, reduce_range=reduce_range)
        eligible = {
            name: kind
            for name, module in model.named_modules()
            if (kind := type(module).__name__) in LINEARS or (kind == "Embedding" and self.embeddings)
        }
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in eligible):
                raise KdcError(
                    f"compress.int8.exclude: '{pattern}' names none of the modules that int8 would change",
                    f"they are called like {', '.join(list(eligible)[-3:])}",
                )
        modules, excluded = dict(plan.modules), dict(plan.excluded)
        for name, kind in eligible.items():
            if pattern := next((p for p in self.exclude if fnmatchcase(name, p)), ""):
                excluded[name] = f"exclude: {pattern}"
            else:
                modules[name] = linear if kind in LINEARS else stored
        return model, plan.model_copy(update={"modules": modules, "excluded": excluded})
