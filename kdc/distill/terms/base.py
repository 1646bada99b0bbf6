"""What a loss term is, and the family's registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import NonNegativeFloat

from kdc.registry import Component, Registry

if TYPE_CHECKING:
    from torch import Tensor

Signals = Mapping[str, Any]
"""What a model says about a batch, by the name of its output: `logits`, a tensor `[batch, classes]`; `hidden_states`
and `attentions`, a tuple of tensors layer by layer."""


class Term(Component):
    """One weighted part of a distillation loss.

    `reads` names the signals it gets from the student, and with `needs_teacher` from the teacher. `labels` are None
    without `needs_labels`.
    """

    reads: ClassVar[frozenset[str]]
    needs_teacher: ClassVar[bool]
    needs_labels: ClassVar[bool]
    name: str
    weight: NonNegativeFloat = 1.0

    @abstractmethod
    def loss(self, student: Signals, teacher: Signals, labels: Tensor | None) -> Tensor:
        """The raw (unweighted) value: a scalar, averaged over the batch."""


def teacher_signals(terms: Iterable[Term]) -> tuple[str, ...]:
    """The signals that these terms need of the teacher, sorted."""
    return tuple(sorted({signal for term in terms if term.needs_teacher for signal in term.reads}))


TERMS: Registry[Term] = Registry("loss term", ["kdc.distill.terms.logits"])
