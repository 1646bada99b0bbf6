"""share: layers next to one another have the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from kdc.compress.base import PASSES, Done, Family, Pass, WeightPass
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("share")
class Share(WeightPass):
    """Ties every `every` layers in a row: as deep as before, with fewer weights (Lan et al. 2020, arXiv:1909.11942,
    section 3.1).

    A group starts from the mean of its layers' weights, or from its `first` layer's; without a recovery little is left
    of what the model knew. Smaller, not faster: each layer is computed as before. `include` and `exclude` are shell
    patterns of layers' names; those left out stay as they are.
    """

    family: ClassVar[Family] = "share"
    splits_linears: ClassVar[bool] = True
    name: Literal["share"]
    every: int = Field(default=2, ge=2)
    start: Literal["mean", "first"] = "mean"
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    def cannot_follow(self, before: Pass, name: str) -> str:
        if before.family == "factorize" and self.start == "mean":
            return f"takes the mean of layers, which {name} before it has factorized"
        return super().cannot_follow(before, name)

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        import torch

        from kdc.models.shapes import Factorized

        own: Any = model
        name, groups = self.targets(model)
        if self.start == "mean" and any(isinstance(module, Factorized) for module in own.modules()):
            raise KdcError(
                "compress.share: factors have no common basis, so their mean says nothing",
                "share before svd, or take compress.share.start=first",
            )
        stack: Any = model.get_submodule(name)
        for group in groups:
            layers = [dict(stack[number].named_parameters()) for number in group]
            if any(
                {k: p.shape for k, p in one.items()} != {k: p.shape for k, p in layers[0].items()} for one in layers
            ):
                raise KdcError(
                    f"compress.share: layers {group[0]} to {group[-1]} differ in shape, so they cannot share weights",
                    "cut them alike (uniform=true), or share before",
                )
            if self.start == "mean":
                with torch.no_grad():
                    for key, parameter in layers[0].items():
                        parameter.copy_(torch.stack([layer[key] for layer in layers]).mean(dim=0))
        self.outline(model)
        lines = [f"{name}.{number}: the weights of layer {group[0]}" for group in groups for number in group[1:]]
        if hasattr(own.config, "use_cache"):
            own.config.use_cache = False  # a layer that is asked twice has one place in it
        return Done(model, plan, lines)

    def outline(self, model: nn.Module) -> None:
        name, groups = self.targets(model)
        stack: Any = model.get_submodule(name)
        for group in groups:
            for number in group[1:]:
                stack[number] = stack[group[0]]

    def targets(self, model: nn.Module) -> tuple[str, list[range]]:
        """The stack of layers, and which of them become one."""
        from kdc.models.layers import layer_stack

        name, depth = layer_stack(model, "compress.share")
        if depth < 2:
            raise KdcError("compress.share: the model has one layer", "leave the pass out")
        names, _ = chosen(self.name, [f"{name}.{number}" for number in range(depth)], self.include, self.exclude)
        groups: list[range] = []
        for number in (int(layer.rpartition(".")[2]) for layer in names):
            last = groups[-1] if groups else range(0)
            if number == last.stop and 0 < len(last) < self.every:
                groups[-1] = range(last.start, number + 1)
            else:
                groups.append(range(number, number + 1))
        if all(len(group) == 1 for group in groups):
            raise KdcError(
                "compress.share: include and exclude leave no two layers next to one another", "exclude fewer"
            )
        return name, groups
