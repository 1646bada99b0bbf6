"""prune_width: a narrower stream between layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from kdc.compress.base import PASSES, Done
from kdc.compress.gradual import Gradual
from kdc.compress.plan import PrecisionPlan
from kdc.compress.units import Score, choose

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration
    from kdc.models.residual import Residual


@PASSES.register("prune_width")
class PruneWidth(Gradual):
    """Takes the share `ratio` of the hidden dimensions that matter least out of embeddings, norms and every linear that
    reads or adds to them; heads and neurons stay as many as they were.

    Norms then measure fewer dimensions, so it wants a recovery (Muralidharan et al. 2024, arXiv:2407.14679, section
    2.2). Scores are sums over all that reads a dimension: `l1` and `l2` norms of weights (writers' too), `activation`
    the size of what it adds to all that readers put out, `taylor` and `fisher` of masks on it.
    """

    cuts_units: ClassVar[bool] = True
    name: Literal["prune_width"]
    score: Score = "activation"
    align: PositiveInt = 8
    """The width stays a multiple of so many."""
    calibration_rows: PositiveInt = 512

    @property
    def rows_to_see(self) -> int:
        return 0 if self.score in ("l1", "l2") else self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        import torch

        from kdc.models.residual import keep_width
        from kdc.models.shapes import refresh

        stream = self.targets(model)
        worth = importance(model, stream, self.score, rows)
        [kept] = choose([worth], self.ratio, uniform=True, align=self.align, whole=self._whole)
        keep_width(model, stream, torch.from_numpy(kept))
        refresh(model)
        return Done(model, plan, [f"width: {stream.width} -> {len(kept)}"])

    def sizes(self, model: nn.Module) -> list[int]:
        return [self.targets(model).width]

    def targets(self, model: nn.Module) -> Residual:
        from kdc.models.residual import residual

        return residual(model, "compress.prune_width")


def importance(model: nn.Module, stream: Residual, score: Score, rows: Calibration | None) -> np.ndarray:
    """How much each dimension matters, `[width]`."""
    from kdc.models.residual import matrices

    if score in ("l1", "l2"):
        power = 1 if score == "l1" else 2
        read, written = matrices(model, stream)
        every = [weight.t() for weight in read] + written
        sizes = sum(_array(weight.abs().double().pow(power).sum(dim=1)) for weight in every)
        return np.power(sizes, 1 / power)
    assert rows is not None
    readers = list(stream.readers)
    if score == "activation":
        read, _ = matrices(model, stream)
        norms_of_inputs = rows.input_norms(model, readers)
        added = [
            _array(norms_of_inputs[name].double().square() * weight.double().square().sum(dim=0))
            for name, weight in zip(readers, read, strict=True)
        ]
        return np.sqrt(sum(added))
    found = np.zeros(stream.width)
    for changes in rows.saliencies(model, readers):
        slopes = sum(changes.values())
        found += (np.abs(slopes) if score == "taylor" else np.square(slopes)).sum(axis=0)
    return found / len(rows.rows)


def _array(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.cpu().numpy()
    return found
