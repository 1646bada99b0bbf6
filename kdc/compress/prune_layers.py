"""prune_layers: whole layers out of the stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from kdc.compress.base import PASSES, Done, Family, Pass, WeightPass
from kdc.compress.gradual import Ratio
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("prune_layers")
class PruneLayers(WeightPass):
    """Drops the share `ratio` of the layers, at least one and not all.

    By `score`, the least first: `influence`, one minus the cosine of what a layer reads and puts out, a mean over
    tokens (the block influence of Men et al. 2024, arXiv:2403.03853); `taylor` and `fisher`, the mean over rows of
    |dL/dm| and of (dL/dm)^2 for a mask m on what the layer makes of its input (for heads Michel et al. 2019,
    arXiv:1905.10650, and Kwon et al. 2022, arXiv:2204.09656, have them); `l1` and `l2`, the mean size and the root mean
    square of its weights. Or by place: `uniform`, `top` and `bottom` say which stay, as for `student=layers`. `include`
    and `exclude` are shell patterns of the names of layers that may go; the share is of all layers.
    """

    family: ClassVar[Family] = "prune"
    name: Literal["prune_layers"]
    ratio: Ratio = 0.5
    score: Literal["influence", "taylor", "fisher", "l1", "l2", "uniform", "top", "bottom"] = "influence"
    calibration_rows: PositiveInt = 512
    """Training rows that `influence`, `taylor` and `fisher` look at."""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    @property
    def rows_to_see(self) -> int:
        return self.calibration_rows if self.score in ("influence", "taylor", "fisher") else 0

    def cannot_follow(self, before: Pass, name: str) -> str:
        if before.family == "share":
            return f"tells layers apart, which {name} before it has made one"
        return super().cannot_follow(before, name)

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        import numpy as np

        from kdc.models.layers import drop_layers, layer_map

        name, depth, free = self.targets(model)
        if len(set(model.get_submodule(name).children())) < depth:
            raise KdcError("compress.prune_layers: layers share their weights", "put prune_layers before share")
        count = self._left(depth)
        spared = len(free) - (depth - count)
        if self.score in ("uniform", "top", "bottom"):
            places, lines = layer_map(len(free), spared, self.score), []
        else:
            layers = [f"{name}.{number}" for number in free]
            worth = self._worth(model, layers, rows)
            places = np.argsort([-value for value in worth], kind="stable")[:spared].tolist()
            lines = [f"{layer}: {self.score} {value:.3g}" for layer, value in zip(layers, worth, strict=True)]
        gone = {*free} - {free[place] for place in places}
        kept = [number for number in range(depth) if number not in gone]
        own: Any = model
        drop_layers(own, kept)
        return Done(model, plan, [*lines, f"{depth} -> {count} layers: {', '.join(map(str, kept))} stay"])

    def outline(self, model: nn.Module) -> None:
        from kdc.models.layers import drop_layers

        _, depth, _ = self.targets(model)
        own: Any = model
        drop_layers(own, range(self._left(depth)))

    def _left(self, depth: int) -> int:
        return min(max(1, math.floor((1 - self.ratio) * depth + 0.5)), depth - 1)

    def _worth(self, model: nn.Module, layers: list[str], rows: Calibration | None) -> Sequence[float]:
        """How much each layer matters."""
        import numpy as np
        import torch

        if self.score in ("l1", "l2"):
            power = 1 if self.score == "l1" else 2
            weights = [[p for p in model.get_submodule(layer).parameters() if p.ndim > 1] for layer in layers]
            flat = [torch.cat([weight.detach().double().flatten() for weight in own]) for own in weights]
            return [float(values.abs().pow(power).mean() ** (1 / power)) for values in flat]
        assert rows is not None
        if self.score == "influence":
            return rows.influences(model, layers)
        size = np.abs if self.score == "taylor" else np.square
        found: list[float] = np.mean(size(np.concatenate(list(rows.layer_saliencies(model, layers)))), axis=0).tolist()
        return found

    def targets(self, model: nn.Module) -> tuple[str, int, list[int]]:
        """The stack of layers, how many they are, and the numbers of those that may go."""
        from kdc.models.layers import layer_stack

        name, depth = layer_stack(model, "compress.prune_layers")
        if depth == 1:
            raise KdcError("compress.prune_layers: the model has one layer", "leave the pass out")
        names, _ = chosen(self.name, [f"{name}.{number}" for number in range(depth)], self.include, self.exclude)
        recurrent = any(type(module).__name__ == "LSTM" for module in model.get_submodule(name).modules())
        if recurrent and names[0] == f"{name}.0":
            raise KdcError(
                f"compress.prune_layers: the first layer of a {type(model).__name__} reads another width than others",
                f"keep it: compress.prune_layers.exclude='[{names[0]}]'",
            )
        if (gone := depth - self._left(depth)) > len(names):
            raise KdcError(
                f"compress.prune_layers.ratio={self.ratio:g} takes {gone} of {depth} layers, but include and exclude "
                f"leave {len(names)} that may go",
                "exclude fewer or lower the ratio",
            )
        return name, depth, [int(layer.rpartition(".")[2]) for layer in names]
