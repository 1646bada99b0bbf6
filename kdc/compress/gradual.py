"""Pruning in rounds: a cut, a recovery, a deeper cut, until the ratio is reached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from kdc.compress.base import WeightPass

Ratio = Annotated[float, Field(gt=0, lt=1)]


class Gradual(WeightPass):
    """A pass that takes away a share `ratio`, at once or in several `rounds` with a recovery after each.

    After round t of n the share 1 - (1 - t/n)^3 of the ratio is gone: much at first, when much is superfluous (Zhu and
    Gupta 2017, arXiv:1710.01878, equation 1). Each round has its part of the recovery's epochs.
    """

    ratio: Ratio = 0.5
    rounds: PositiveInt = 1

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
        gone = [self.ratio * (1 - (1 - step / self.rounds) ** 3) for step in range(self.rounds + 1)]
        return [
            self.cut_to(ratio, before).model_copy(update={"rounds": 1, "recover": recover})
            for before, ratio in pairwise(gone)
        ]

    def cut_to(self, ratio: float, before: float) -> Self:
        """This pass for a model that lacks the share `before` already and shall lack `ratio`.

        What is gone counts no more: of what is left another share goes.
        """
        return self.model_copy(update={"ratio": (ratio - before) / (1 - before)})
