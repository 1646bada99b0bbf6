"""prune_layers: whole layers out of the stack."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from kdc.compress.base import PASSES, Done, Family, Pass, WeightPass
from kdc.compress.gradual import Ratio
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("prune_layers")
class PruneLayers(WeightPass):
    """Drops the share `ratio` of the layers, at least one and not all.

    By `score`: `influence`, one minus the cosine of what a layer reads and puts out, a mean over tokens, the least
    first (the block influence of Men et al. 2024, arXiv:2403.03853); or by place: `uniform`, `top` and `bottom` say
    which stay, as for `student=layers`.
    """

    family: ClassVar[Family] = "prune"
    name: Literal["prune_layers"]
    ratio: Ratio = 0.5
    score: Literal["influence", "uniform", "top", "bottom"] = "influence"
    calibration_rows: PositiveInt = 512

    @property
    def rows_to_see(self) -> int:
        return self.calibration_rows if self.score == "influence" else 0

    def cannot_follow(self, before: Pass, name: str) -> str:
        if before.family == "share":
            return f"tells layers apart, which {name} before it has made one"
        return super().cannot_follow(before, name)

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        import numpy as np

        from kdc.models.layers import drop_layers, layer_map

        name, depth = self.targets(model)
        if len(set(model.get_submodule(name).children())) < depth:
            raise KdcError("compress.prune_layers: layers share their weights", "put prune_layers before share")
        count = min(max(1, math.floor((1 - self.ratio) * depth + 0.5)), depth - 1)
        if self.score == "influence":
            assert rows is not None
            influence = rows.influences(model, [f"{name}.{number}" for number in range(depth)])
            kept = sorted(np.argsort([-value for value in influence], kind="stable")[:count].tolist())
            lines = [f"{name}.{number}: influence {value:.4f}" for number, value in enumerate(influence)]
        else:
            kept, lines = layer_map(depth, count, self.score), []
        own: Any = model
        drop_layers(own, kept)
        return Done(model, plan, [*lines, f"{depth} -> {count} layers: {', '.join(map(str, kept))} stay"])

    def targets(self, model: nn.Module) -> tuple[str, int]:
        """The stack of layers and how many they are."""
        from kdc.models.layers import layer_stack

        name, depth = layer_stack(model, "compress.prune_layers")
        if depth == 1:
            raise KdcError("compress.prune_layers: the model has one layer", "leave the pass out")
        return name, depth
