"""What a compression pass is, and the family's registry."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from kdc.compress.plan import Precision, PrecisionPlan
from kdc.registry import Component, Registry

if TYPE_CHECKING:
    from torch import nn


class Pass(Component):
    """One compression step: it changes the module, or the precision plan that a runtime realizes.

    `changes_weights` says which: a pass that leaves the weights alone costs no copy of the model. `precision` is what
    it asks of a runtime, so that a missing cell of precision x runtime is refused before a model is loaded.
    """

    changes_weights: ClassVar[bool] = False
    precision: ClassVar[Precision | None] = None
    name: str

    def resolved(self) -> Self:
        """This pass with every choice that it leaves to the machine made, so that a stage's key holds it."""
        return self

    @abstractmethod
    def apply(self, model: nn.Module, plan: PrecisionPlan) -> tuple[nn.Module, PrecisionPlan]:
        """The model and plan after this step. `model` may be changed in place."""


PASSES: Registry[Pass] = Registry("compression pass", ["kdc.compress.int8", "kdc.compress.bf16"])
