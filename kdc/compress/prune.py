"""prune: single weights to zero. Smaller when packed; no faster, and no smaller as a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from kdc.compress.base import PASSES, Done
from kdc.compress.gradual import Gradual
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration


@PASSES.register("prune")
class Prune(Gradual):
    """Sets the weights of linears and convolutions to zero that matter least.

    `magnitude`: |w|. `wanda`: |w| times the norm of its input (Sun et al. 2023, arXiv:2306.11695).
    `taylor`: |w * dL/dw|, the first-order change of the loss over the rows looked at (Molchanov et al. 2019,
    arXiv:1906.10771, section 3.1).

    Weights compete with all others (`global`), with those of their module (`layer`) or of their output (`row`). With
    `pattern` `n:m`, n of every m weights along the inputs stay instead of a share; with `threshold`, those whose score
    is above it.
    """

    name: Literal["prune"]
    score: Literal["magnitude", "wanda", "taylor"] = "magnitude"
    scope: Literal["global", "layer", "row"] = "layer"
    threshold: NonNegativeFloat | None = None
    pattern: str | None = None
    calibration_rows: PositiveInt = 512
    """Training rows that scores other than magnitude look at."""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    @field_validator("pattern")
    @classmethod
    def _n_of_m(cls, pattern: str | None) -> str | None:
        found = re.fullmatch(r"(\d+):(\d+)", pattern) if pattern is not None else None
        if pattern is not None and (found is None or not 0 < int(found[1]) < int(found[2])):
            raise ValueError(f"{pattern!r} is no n:m with n below m, such as 2:4")
        return pattern

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.threshold is not None and self.pattern is not None:
            raise ValueError("threshold and pattern both say what stays; set one of them to null")
        if self.rounds > 1 and (self.threshold is not None or self.pattern is not None):
            raise ValueError("rounds approach a ratio; threshold and pattern cut at once")
        return self

    @property
    def rows_to_see(self) -> int:
        return 0 if self.score == "magnitude" else self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        import torch

        weights = self.targets(model)
        scores = self._scores(model, weights, rows)
        lines = []
        for name, kept in self._kept(scores).items():
            with torch.no_grad():
                weights[name].mul_(kept.view_as(weights[name]))
            zeros = 1 - torch.count_nonzero(weights[name]).item() / weights[name].numel()
            lines.append(f"{name}: {zeros:.1%} of {weights[name].numel():,} weights are zero")
        return Done(model, plan, lines)

    def targets(self, model: nn.Module) -> dict[str, Tensor]:
        from kdc.models.taps import matrices

        weights = dict(matrices(model))  # views, outputs first: what is written into them is in the model
        names, _ = chosen(self.name, weights, self.include, self.exclude)
        return {name: weights[name] for name in names}

    def _scores(self, model: nn.Module, weights: Mapping[str, Tensor], rows: Calibration | None) -> dict[str, Tensor]:
        """Of every weight, `[outputs, inputs]`; of convolutions their inputs, places and all, side by side."""
        import torch

        flat = {name: weight.detach().flatten(1) for name, weight in weights.items()}
        if self.score == "magnitude":
            return {name: weight.abs() for name, weight in flat.items()}
        assert rows is not None
        if self.score == "wanda":
            norms = rows.input_norms(model, list(flat))
            nothing = torch.zeros(())  # is what a module reads that no row reaches
            return {
                name: weight.abs() * (_by_output(norms[name], weight) if name in norms else nothing)
                for name, weight in flat.items()
            }
        from kdc.models.shapes import outputs_first

        parameters: list[Any] = [model.get_submodule(name).weight for name in flat]
        gradients = rows.gradients(model, parameters)
        slopes = {
            name: outputs_first(model.get_submodule(name), slope) for name, slope in zip(flat, gradients, strict=True)
        }
        return {name: (weight * slopes[name].flatten(1)).abs() for name, weight in flat.items()}

    def _kept(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which weights stay, in the shape of their scores."""
        import torch

        if self.threshold is not None:
            return {name: score > self.threshold for name, score in scores.items()}
        if self.pattern is not None:
            few, many = map(int, self.pattern.split(":"))
            return {name: _n_of_m(score, few, many) for name, score in scores.items()}
        if self.scope == "row":
            return {name: torch.stack([_stay(row, self.ratio) for row in score]) for name, score in scores.items()}
        if self.scope == "layer":
            return {name: _stay(score.flatten(), self.ratio).view_as(score) for name, score in scores.items()}
        stay = _stay(torch.cat([score.flatten() for score in scores.values()]), self.ratio)
        parts = stay.split([score.numel() for score in scores.values()])
        return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _stay(scores: Tensor, ratio: float) -> Tensor:
    """All but the share `ratio` of the smallest scores `[weights]`; of those that are alike the last stay."""
    import torch

    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[scores.argsort(stable=True)[: math.floor(ratio * len(scores))]] = False
    return kept


def _n_of_m(score: Tensor, few: int, many: int) -> Tensor:
    """The `few` best of every `many` inputs; inputs beyond the last whole group all stay."""
    import torch

    whole = score.shape[1] // many * many
    groups = score[:, :whole].unflatten(1, (-1, many))
    best = groups.topk(few, dim=-1).indices
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
    return torch.cat([kept.flatten(1), torch.ones_like(score[:, whole:], dtype=torch.bool)], dim=1)


def _by_output(inputs: Tensor, weight: Tensor) -> Tensor:
    """A number an input, for the inputs that each output has: in a convolution of groups those of its group."""
    groups = inputs.view(-1, weight.shape[1])
    return groups.repeat_interleave(len(weight) // len(groups), dim=0)
