"""The two terms that everybody starts from: soft labels (forward KL) and hard labels (cross-entropy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.distill.schedules import Temperature, value_at
from kdc.distill.terms.base import IGNORED, TERMS, Batch, Term

if TYPE_CHECKING:
    from torch import Tensor, nn


@TERMS.register("kl")
class ForwardKL(Term):
    """T² · KL(softmax(z_t / T) || softmax(z_s / T)) of every row.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2: the factor T² keeps the gradient's size independent
    of the temperature, since it scales with 1/T². Logits are `[rows, classes]`.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"logits"})
    name: Literal["kl"]
    temperature: Temperature = 2.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from torch.nn import functional

        from kdc.distill.terms.rows import by_rows, per_row, precise

        student, teacher = precise(batch.student["logits"]), precise(batch.teacher["logits"])
        temperature = by_rows(value_at(self.temperature, batch), student)
        log_student = functional.log_softmax(student / temperature, dim=-1)
        log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
        divergence = temperature**2 * log_teacher.exp() * (log_teacher - log_student)
        return per_row(divergence.sum(dim=-1, keepdim=True), batch.mask)


@TERMS.register("hard")
class HardLabels(Term):
    """Cross-entropy with the data's own labels; rows and tokens labelled -100 have none and do not count.

    Logits are `[rows, classes]` and labels `[rows]`, or both with a `length` before the classes.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs_labels: ClassVar[bool] = True
    name: Literal["hard"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from torch.nn import functional

        from kdc.distill.terms.rows import precise

        assert batch.labels is not None
        logits, labels = precise(batch.student["logits"]), batch.labels
        values = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)
        labelled = (labels != IGNORED).sum().clamp(min=1)
        # a mean over all rows that is the mean over what is labelled
        return values.view(len(labels), -1).sum(dim=1) * len(labels) / labelled
