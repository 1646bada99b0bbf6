"""fp16: the whole model in half precision, for hardware that computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.plan import Precision, PrecisionPlan

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("fp16")
class Fp16(Pass):
    """Half the bytes, finer than bf16 and of a narrower range: what passes 65,504 is infinite."""

    name: Literal["fp16"]

    @property
    def precision(self) -> Precision:
        return "fp16"

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        return Done(model, plan.model_copy(update={"default": "fp16"}))
