"""Terms that take the teacher's distribution apart: DKD by target and non-target classes, DIST by correlations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from kdc.distill.schedules import Scheduled, Temperature, Weight, asks_confidence, value_at
from kdc.distill.terms.base import IGNORED, TERMS, Batch
from kdc.distill.terms.logits import Distance, at_temperature, kl_divergence

if TYPE_CHECKING:
    from torch import Tensor, nn


@TERMS.register("dkd")
class Decoupled(Distance):
    """T² · (α TCKD + β NCKD): how sure the teacher is of the target, and how it ranks the other classes, weighed apart.

    Zhao et al. 2022 (arXiv:2203.08679), equation 7. TCKD is the KL between "the target or not" of teacher and student,
    NCKD the KL between their distributions over the other classes. With α = 1 and β = 1 - p_t(target) it would be
    forward KL (equation 6), which therefore learns least about the other classes where the teacher is sure. With two
    classes there is one other class, and NCKD is 0. Rows and tokens labelled -100 do not count.

    Logits are `[rows, classes]` and labels `[rows]`, or both with a `length` before the classes.
    """

    needs_labels: ClassVar[bool] = True
    name: Literal["dkd"]
    temperature: Temperature = 4.0
    alpha: Weight = 1.0
    beta: Weight = 8.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch

        from kdc.distill.terms.rows import by_rows, over_labelled

        assert batch.labels is not None
        student, teacher, temperature = at_temperature(batch, self.temperature)
        index = batch.labels.clamp(min=0).unsqueeze(-1)
        target = torch.zeros_like(student, dtype=torch.bool).scatter(-1, index, True)

        def apart(log_p: Tensor) -> tuple[Tensor, Tensor]:
            """Log-probabilities of the target and of all others, and of the others among themselves (target: 1)."""
            others = log_p.masked_fill(target, -torch.inf).logsumexp(dim=-1, keepdim=True)
            return torch.cat([log_p.gather(-1, index), others], dim=-1), (log_p - others).masked_fill(target, 0)

        (target_s, others_s), (target_t, others_t) = apart(student), apart(teacher)
        alpha, beta = (by_rows(value_at(setting, batch), student) for setting in (self.alpha, self.beta))
        parts = alpha * kl_divergence(target_t, target_s) + beta * kl_divergence(others_t, others_s)
        return over_labelled(temperature**2 * parts, batch.labels != IGNORED)


@TERMS.register("dist")
class Correlations(Distance):
    """β · inter + γ · intra: 1 - Pearson's correlation of student and teacher within rows, and within classes.

    Huang et al. 2022 (arXiv:2205.10536), L_inter and L_intra, of probabilities at a temperature: `inter` compares the
    classes of one example and is the mean over examples, `intra` the examples of one class and is the mean over
    classes. A correlation does not shrink with its arguments, so there is no factor T². Of two classes `inter` is 0 or
    2 and has no gradient: only `intra` teaches. It takes in the rows of all processes and every real token, so the
    term is no mean over rows.
    """

    by_row: ClassVar[bool] = False
    name: Literal["dist"]
    temperature: Temperature = 1.0
    beta: Weight = 1.0
    gamma: Weight = 1.0

    @field_validator("gamma")
    @classmethod
    def _of_all_rows(cls, gamma: Scheduled) -> Scheduled:
        if asks_confidence(gamma):
            raise ValueError("cannot differ from row to row: it weighs a comparison of all rows")
        return gamma

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import gathered, per_row

        student, teacher = (log_p.exp() for log_p in at_temperature(batch, self.temperature)[:2])
        inter = per_row(_distance(student, teacher, -1).unsqueeze(-1), batch.mask)
        if student.ndim > 2:
            real = batch.mask if batch.mask is not None else ...
            student, teacher = student[real].flatten(0, -2), teacher[real].flatten(0, -2)
        intra = _distance(gathered(student), gathered(teacher), 0)
        return (value_at(self.beta, batch) * inter).mean() + value_at(self.gamma, batch) * intra.mean()


def _distance(ours: Tensor, theirs: Tensor, dim: int) -> Tensor:
    """1 - Pearson's correlation along a dimension."""
    from torch.nn import functional

    ours, theirs = (values - values.mean(dim=dim, keepdim=True) for values in (ours, theirs))
    return 1 - functional.cosine_similarity(ours, theirs, dim=dim)
