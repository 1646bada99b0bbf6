"""fold_batch_norm: convolutions do the work of the batch-norms behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("fold_batch_norm")
class FoldBatchNorm(Pass):
    """What is exported has no batch-norms; the model itself keeps them, and can go on learning.

    In evaluation a batch-norm is y = (x - mean) / sqrt(variance + eps) * gamma + beta, a scale and a shift for each
    channel (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2), so the convolution can have them. onnxruntime and
    openvino do this themselves when they load a file in float; torch does not.
    """

    modality: ClassVar[str | None] = "image"
    name: Literal["fold_batch_norm"]

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        lines = [f"{convolution}: does the work of {norm}" for convolution, norm in self.targets(model).items()]
        return Done(model, plan.rewritten("fold_batch_norm"), lines)

    def targets(self, model: nn.Module) -> dict[str, str]:
        from kdc.models.batch_norm import normalized

        pairs = normalized(model)
        if not pairs:
            raise KdcError(
                "compress.fold_batch_norm: no convolution of the model has a batch-norm behind it", "leave the pass out"
            )
        return pairs
