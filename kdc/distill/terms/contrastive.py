"""Contrastive representation distillation: the student's vector of an example is told apart from those of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt, field_validator

from kdc.distill.schedules import Scheduled, Temperature, asks_confidence, value_at
from kdc.distill.terms.base import IGNORED, TERMS, Batch, Term
from kdc.distill.terms.examples import FEATURES, feature_problems
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline


@TERMS.register("crd")
class ContrastiveRepresentation(Term):
    """-log h(t_i, s_i) - Σ_j log(1 - h(t_j, s_i)) over the examples j that are negatives of i; the mean over all i.

    Tian et al. 2020 (CRD, arXiv:1910.10699), section 3.1, -L_critic with the critic h of equation 19: it tells the two
    vectors of one example from those of different ones, h(t, s) = e^{t's / τ} / (e^{t's / τ} + N / M) with N negatives
    among M examples. t and s are the features `[rows, width]` of teacher and student, each led through a linear layer
    to `dimension` numbers and scaled to length 1; the two layers are trained along and do not ship.

    Negatives are the rows of the batch (of all processes) with other labels, or all others if `same_label`; a row
    without a label is everybody's negative. `cardinality` is M; null takes M = N, with which h is a sigmoid of t's / τ.

    What differs from the authors' code: they draw N = 16,384 negatives from a memory of all examples' vectors as last
    seen, while here they are as many as the batch has, all fresh, and learn too. They add the value with teacher and
    student exchanged, which in a batch is the sum over the same pairs once more. They divide e^{t's / τ} by M times its
    mean in the first batch, which equation 19 does not.
    """

    reads: ClassVar[frozenset[str]] = frozenset({FEATURES})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({FEATURES})
    by_row: ClassVar[bool] = False
    name: Literal["crd"]
    dimension: PositiveInt = 128
    temperature: Temperature = 0.07
    same_label: bool = False
    cardinality: PositiveInt | None = None

    @field_validator("temperature")
    @classmethod
    def _of_all_rows(cls, temperature: Scheduled) -> Scheduled:
        if asks_confidence(temperature):
            raise ValueError("cannot differ from row to row: it belongs to a comparison of all rows")
        return temperature

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]  # of most terms the class decides
        return not self.same_label

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        yield from feature_problems(self.name, student, teacher)

    def head(self, student: Outline, teacher: Outline) -> nn.Module:
        from torch import nn

        widths = {"student": student.width(FEATURES), "teacher": teacher.width(FEATURES)}
        return nn.ModuleDict({model: nn.Linear(width, self.dimension) for model, width in widths.items()})

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch
        from torch import nn
        from torch.nn.functional import logsigmoid

        from kdc.distill.terms.rows import full_precision, gathered, precise, unit

        assert isinstance(head, nn.ModuleDict)
        signals = {"student": batch.student[FEATURES], "teacher": batch.teacher[FEATURES]}
        with full_precision(signals["student"]):
            students, teachers = (gathered(unit(head[model](precise(values)))) for model, values in signals.items())
            scores = students @ teachers.T / value_at(self.temperature, batch)
            negative = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
            if not self.same_label:
                assert batch.labels is not None
                if batch.labels.ndim > 1:
                    raise KdcError("crd: same_label=false needs one label a row", "set same_label to true")
                labels = gathered(batch.labels)
                negative &= (labels != labels.unsqueeze(1)) | (labels == IGNORED)
            negatives = negative.sum(dim=1, keepdim=True).clamp(min=1).to(scores)
            margin = (negatives / (self.cardinality or negatives)).log()
            alike = logsigmoid(scores - margin).diagonal()  # log h
            apart = (logsigmoid(margin - scores) * negative).sum(dim=1)  # log(1 - h)
        return -(alike + apart).mean()
