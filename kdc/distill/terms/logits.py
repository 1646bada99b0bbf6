"""The two terms that everybody starts from: soft labels (forward KL) and hard labels (cross-entropy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdc.distill.schedules import Scheduled, Temperature, value_at
from kdc.distill.terms.base import IGNORED, TERMS, Batch, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

LOGITS = frozenset({"logits"})


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities, `[..., classes]` -> `[..., 1]`."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1, keepdim=True)


def at_temperature(batch: Batch, setting: Scheduled) -> tuple[Tensor, Tensor, Any]:
    """log softmax(z / T) of student and teacher, `[rows, ..., classes]`, and T, a number or `[rows, ..., 1]`."""
    from torch.nn import functional

    from kdc.distill.terms.rows import by_rows, precise

    student, teacher = precise(batch.student["logits"]), precise(batch.teacher["logits"])
    temperature = by_rows(value_at(setting, batch), student)
    log_student = functional.log_softmax(student / temperature, dim=-1)
    return log_student, functional.log_softmax(teacher / temperature, dim=-1), temperature


class Distance(Term):
    """Between the logits z_s of the student and z_t of the teacher, `[rows, classes]` or `[rows, length, classes]`."""

    reads: ClassVar[frozenset[str]] = LOGITS
    reads_of_teacher: ClassVar[frozenset[str]] = LOGITS


@TERMS.register("kl")
class ForwardKL(Distance):
    """T² · KL(softmax(z_t / T) || softmax(z_s / T)).

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2: the factor T² keeps the gradient's size independent
    of the temperature, since it scales with 1/T².
    """

    name: Literal["kl"]
    temperature: Temperature = 2.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row

        student, teacher, temperature = at_temperature(batch, self.temperature)
        return per_row(temperature**2 * kl_divergence(teacher, student), batch.mask)


@TERMS.register("hard")
class HardLabels(Term):
    """Cross-entropy with the data's own labels; rows and tokens labelled -100 have none and do not count.

    The mean is over rows that have a label, of tokens' labels over each row first, so that long rows count no more.
    Logits are `[rows, classes]` and labels `[rows]`, or both with a `length` before the classes.
    """

    reads: ClassVar[frozenset[str]] = LOGITS
    needs_labels: ClassVar[bool] = True
    name: Literal["hard"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from torch.nn import functional

        from kdc.distill.terms.rows import over_labelled, precise

        assert batch.labels is not None
        logits, labels = precise(batch.student["logits"]), batch.labels
        values = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)
        return over_labelled(values, labels != IGNORED)
