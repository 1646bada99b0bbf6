"""bf16: the whole model in bfloat16, for hardware that computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.plan import Precision, PrecisionPlan
from kdc.machine import has_bf16, target_flags

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("bf16")
class Bf16(Pass):
    """Half the bytes, no calibration, the range of fp32."""

    name: Literal["bf16"]

    @property
    def precision(self) -> Precision:
        return "bf16"

    def remarks(self) -> list[str]:
        return [] if has_bf16(target_flags()) else ["a CPU without bf16 computes it in other ways, slower than fp32"]

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        return Done(model, plan.model_copy(update={"default": "bf16"}))
