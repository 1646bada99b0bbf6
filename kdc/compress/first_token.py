"""first_token: a classifier's last layer computes the one token that its head reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("first_token")
class FirstToken(Pass):
    """Of the last layer one query a row, its output projection and its feed-forward part; the same answers.

    The artifact is a graph that does so; its weights are those of the model.
    """

    modality: ClassVar[str | None] = "text"
    name: Literal["first_token"]

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        self.targets(model)
        return Done(model, plan.rewritten("first_token"), ["the last layer computes its first token alone"])

    def targets(self, model: nn.Module) -> None:
        from kdc.models.first_token import LAST_LAYERS, first_token_only

        with first_token_only(model) as can:
            if not can:
                known = ", ".join(sorted(name.removesuffix("ForSequenceClassification") for name in LAST_LAYERS))
                raise KdcError(
                    f"compress.first_token: the head of a {type(model).__name__} may read more than the first token",
                    f"leave the pass out; it is for classifiers of {known}",
                )
