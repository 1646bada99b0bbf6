"""Outputs that are no single class: several labels a row (sigmoids), and numbers (regression)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from kdc.distill.schedules import Temperature, asks_confidence, value_at
from kdc.distill.terms.base import IGNORED, TERMS, Batch, Term
from kdc.distill.terms.logits import LOGITS

if TYPE_CHECKING:
    from torch import Tensor, nn


class OfOutputs(Term):
    """Of outputs `[rows, outputs]` that do not exclude one another, or `[rows, length, outputs]`."""

    reads: ClassVar[frozenset[str]] = LOGITS

    @model_validator(mode="after")
    def _no_confidence(self) -> OfOutputs:
        for key in type(self).model_fields:
            if asks_confidence(getattr(self, key)):
                raise ValueError(f"{key} cannot follow the teacher's confidence, which is in one class among several")
        return self


@TERMS.register("sigmoid_kl")
class SigmoidKL(OfOutputs):
    """T² · KL(sigmoid(z_t / T) || sigmoid(z_s / T)) of every label, present or absent, and the mean over labels.

    Yang et al. 2023 (arXiv:2308.06453), the MLD loss: a problem of several labels is as many binary ones. They sum over
    labels; the mean is what goes with `multilabel`, whatever the number of labels. Logits are `[rows, labels]`.
    """

    reads_of_teacher: ClassVar[frozenset[str]] = LOGITS
    name: Literal["sigmoid_kl"]
    temperature: Temperature = 2.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from torch.nn.functional import logsigmoid

        from kdc.distill.terms.rows import per_row, precise

        temperature = value_at(self.temperature, batch)
        student = precise(batch.student["logits"]) / temperature
        teacher = precise(batch.teacher["logits"]) / temperature
        present = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
        absent = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
        return per_row(temperature**2 * (present + absent), batch.mask)


@TERMS.register("multilabel")
class MultiLabel(OfOutputs):
    """Binary cross-entropy with the data's labels, and the mean over labels.

    Logits and labels are `[rows, labels]`, a label 1 (present), 0 (absent) or a probability; -100 is none and does not
    count, and neither do rows without any.
    """

    needs_labels: ClassVar[bool] = True
    name: Literal["multilabel"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        from kdc.distill.terms.rows import over_labelled, precise

        assert batch.labels is not None
        logits = precise(batch.student["logits"])
        values = binary_cross_entropy_with_logits(logits, batch.labels.to(logits), reduction="none")
        return over_labelled(values, batch.labels != IGNORED)


@TERMS.register("regression")
class Regression(OfOutputs):
    """(z - y)² with the data's numbers, the mean over the outputs of a row; NaN is no label and does not count.

    Outputs are `[rows, numbers]`, labels the same or, of one number, `[rows]`.
    """

    needs_labels: ClassVar[bool] = True
    name: Literal["regression"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import over_labelled, precise

        assert batch.labels is not None
        outputs = precise(batch.student["logits"])
        labels = batch.labels.to(outputs).reshape(outputs.shape)
        return over_labelled((outputs - labels.nan_to_num()) ** 2, ~labels.isnan())


@TERMS.register("regression_soft")
class SoftRegression(OfOutputs):
    """(z_s - z_t)² with the teacher's numbers, the mean over the outputs of a row: `regression` with soft labels.

    Outputs are `[rows, numbers]`.
    """

    reads_of_teacher: ClassVar[frozenset[str]] = LOGITS
    name: Literal["regression_soft"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row, precise

        return per_row((precise(batch.student["logits"]) - precise(batch.teacher["logits"])) ** 2, batch.mask)
