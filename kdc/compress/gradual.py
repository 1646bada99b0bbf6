"""Pruning in rounds: a cut, a recovery, a deeper cut, until the ratio is reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from kdc.compress.base import Family, WeightPass

if TYPE_CHECKING:
    from torch import nn

Ratio = Annotated[float, Field(gt=0, lt=1)]


class Gradual(WeightPass):
    """A pass that takes away a share `ratio`, at once or in several `rounds` with a recovery after each.

    After round t of n the share 1 - (1 - t/n)^3 of the ratio is gone: much at first, when much is superfluous (Zhu and
    Gupta 2017, arXiv:1710.01878, equation 1). Each round has its part of the recovery's epochs.
    """

    family: ClassVar[Family] = "prune"
    ratio: Ratio = 0.5
    rounds: PositiveInt = 1
    _whole: Sequence[int] | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _rounds_recover(self) -> Self:
        if self.rounds > 1 and self.recover is None:
            raise ValueError("several rounds are for a recovery after each; set recover={epochs: 1}, or rounds to 1")
        return self

    def in_rounds(self) -> Sequence[Self]:
        if self.rounds == 1:
            return [self]
        assert self.recover is not None
        recover = self.recover.model_copy(update={"epochs": self.recover.epochs / self.rounds})
        gone = [self.ratio * (1 - (1 - step / self.rounds) ** 3) for step in range(1, self.rounds + 1)]
        return [self.model_copy(update={"ratio": ratio, "rounds": 1, "recover": recover}) for ratio in gone]

    def of_whole(self, model: nn.Module) -> Self:
        """This pass as a later round: its ratio is a share of what `model` had, of which the one to cut was cut."""
        round_ = self.model_copy()
        round_._whole = self.sizes(model)
        return round_

    def sizes(self, model: nn.Module) -> Sequence[int] | None:
        """How many units each layer has; None where those that went are still there, as zeros are."""
        return None
