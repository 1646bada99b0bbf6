"""What a loss term is, and the family's registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat

from kdc.registry import Component, Registry

if TYPE_CHECKING:
    from torch import Tensor

Signals = Mapping[str, "Tensor"]
"""What a model says about a batch, by signal name: `logits` `[batch, classes]`, later hidden states, attentions."""


class Term(Component):
    """One weighted part of a distillation loss. `reads` names the signals it needs from student and teacher."""

    reads: ClassVar[frozenset[str]]
    needs_teacher: ClassVar[bool]
    needs_labels: ClassVar[bool]
    name: str
    weight: NonNegativeFloat = 1.0

    @abstractmethod
    def loss(self, student: Signals, teacher: Signals, labels: Tensor | None) -> Tensor:
        """The raw (unweighted) value: a scalar, averaged over the batch."""


TERMS: Registry[Term] = Registry("loss term", ["kdc.distill.terms.logits"])
