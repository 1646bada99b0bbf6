"""Terms on the logits: soft labels (forward KL) and hard labels (cross-entropy)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from kdc.distill.terms.base import TERMS, Signals, Term

if TYPE_CHECKING:
    from torch import Tensor


@TERMS.register("kl")
class ForwardKL(Term):
    """T² · KL(softmax(z_t / T) || softmax(z_s / T)), averaged over the batch.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2: the factor T² keeps the gradient's size independent
    of the temperature, since it scales with 1/T². Logits are `[batch, classes]`; computed in float32.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    name: Literal["kl"]
    temperature: PositiveFloat = 2.0

    def loss(self, student: Signals, teacher: Signals, labels: Tensor | None) -> Tensor:
        from torch.nn import functional

        log_student = functional.log_softmax(student["logits"].float() / self.temperature, dim=-1)
        log_teacher = functional.log_softmax(teacher["logits"].float() / self.temperature, dim=-1)
        divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2


@TERMS.register("hard")
class HardLabels(Term):
    """Cross-entropy with the data's own labels, mean over all that are not -100.

    Logits are `[batch, classes]` and labels `[batch]`, or both with a `length` before the classes.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    name: Literal["hard"]

    def loss(self, student: Signals, teacher: Signals, labels: Tensor | None) -> Tensor:
        from torch.nn import functional

        assert labels is not None
        return functional.cross_entropy(student["logits"].float().flatten(0, -2), labels.flatten())
