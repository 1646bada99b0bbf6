"""merge: several fine-tuned models of one architecture become one, the mean of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, model_validator

from kdc.compress.base import PASSES, Done, Family, Pass, WeightPass
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration
    from kdc.data.examples import Examples
    from kdc.tasks.base import Encoder

State = Mapping[str, "Tensor"]


@PASSES.register("merge")
class Merge(WeightPass):
    """A soup of the model and the checkpoints at `paths` (Wortsman et al. 2022, arXiv:2203.05482): as large and as fast
    as one of them. They have to come from one pretrained model, or their mean is no model.

    `uniform` takes the mean of all, `weighted` by `weights` (the model's own first), `greedy` one after the other, the
    best on validation first, each only if the metric there does not get worse by it (their recipe 1).
    """

    version: ClassVar[int] = 5
    family: ClassVar[Family] = "merge"
    judges: ClassVar[bool] = True
    name: Literal["merge"]
    paths: list[str] = Field(default_factory=list)
    method: Literal["uniform", "weighted", "greedy"] = "greedy"
    weights: list[NonNegativeFloat] | None = None

    @model_validator(mode="after")
    def _is_told_what(self) -> Self:
        if not self.paths:
            raise ValueError("name the checkpoints to merge with, e.g. compress.merge.paths='[FOLDER]'")
        if (self.weights is not None) != (self.method == "weighted"):
            raise ValueError("weights are for method=weighted, which needs them")
        if self.weights is not None and (len(self.weights) != len(self.paths) + 1 or not sum(self.weights)):
            raise ValueError(f"weights has to name {len(self.paths) + 1} numbers, the model's own first, not all 0")
        return self

    @property
    def checkpoints(self) -> Sequence[str]:
        return self.paths

    @property
    def rows_to_see(self) -> int:
        return 64

    def cannot_follow(self, before: Pass, name: str) -> str:
        if before.changes_weights and before.family != self.family:
            return f"mixes in whole checkpoints, which {name} before it has made the model unlike"
        return super().cannot_follow(before, name)

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        assert rows is not None
        names = ["the model", *self.paths]
        states = [_copied(model), *(other.model.state_dict() for other in rows.others)]
        for path, other, state in zip(self.paths, rows.others, states[1:], strict=True):
            if other.new_head:
                raise KdcError(f"compress.merge.paths: {path} has no head for these labels", "fine-tune it first")
            if {k: t.shape for k, t in state.items()} != {k: t.shape for k, t in states[0].items()}:
                raise KdcError(f"compress.merge.paths: {path} is of another architecture", "merge models of one kind")
            if not _read_alike(other.encoder, rows.encoder, rows.rows):
                raise KdcError(f"compress.merge.paths: {path} reads in another way", "merge models of one tokenizer")
        if self.method != "greedy":
            shares = self.weights or [1.0] * len(states)
            model.load_state_dict(mean(states, shares))
            total = sum(shares)
            return Done(model, plan, [f"{n}: {share / total:.1%}" for n, share in zip(names, shares, strict=True)])
        return Done(model, plan, _greedy(model, states, names, rows))


def mean(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of every float tensor; what counts (steps of batch-norms) is the first one's."""
    import torch

    total = sum(shares)
    found = {}
    for name, own in states[0].items():
        if not own.is_floating_point():
            found[name] = own
            continue
        parts = [state[name].double() * (share / total) for state, share in zip(states, shares, strict=True)]
        found[name] = torch.stack(parts).sum(dim=0).to(own.dtype)
    return found


def _greedy(model: nn.Module, states: Sequence[State], names: Sequence[str], rows: Calibration) -> list[str]:
    """Load the greedy soup into `model`; what became of each ingredient."""

    def score(chosen: Sequence[int]) -> float:
        model.load_state_dict(mean([states[i] for i in chosen], [1.0] * len(chosen)))
        value = rows.score(model)
        return value if rows.higher_is_better else -value

    alone = [score([number]) for number in range(len(states))]
    order = sorted(range(len(states)), key=lambda number: -alone[number])
    soup, best = [order[0]], alone[order[0]]
    sign = 1 if rows.higher_is_better else -1
    lines = [f"{names[order[0]]}: in, {rows.metric} {sign * best:.4f} on validation"]
    for number in order[1:]:
        value = score([*soup, number])
        lines.append(f"{names[number]}: {'in' if value >= best else 'left out'}, with it {sign * value:.4f}")
        if value >= best:
            soup, best = [*soup, number], value
    score(soup)
    return lines


def _read_alike(one: Encoder, other: Encoder, rows: Examples) -> bool:
    ours, theirs = (encoder.collate(encoder.encode(rows)) for encoder in (one, other))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
