"""Other distances between the logits of student and teacher than forward KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat, field_validator

from kdc.distill.schedules import Alpha, Scheduled, Temperature, extremes, value_at
from kdc.distill.terms.base import TERMS, Batch
from kdc.distill.terms.logits import Distance, at_temperature, kl_divergence

if TYPE_CHECKING:
    from torch import Tensor, nn


@TERMS.register("reverse_kl")
class ReverseKL(Distance):
    """T² · KL(softmax(z_s / T) || softmax(z_t / T)): the student avoids what the teacher takes for unlikely.

    Gu et al. 2024 (MiniLLM, arXiv:2306.08543), equation 1, with Hinton's factor T².
    """

    name: Literal["reverse_kl"]
    temperature: Temperature = 2.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row

        student, teacher, temperature = at_temperature(batch, self.temperature)
        return per_row(temperature**2 * kl_divergence(student, teacher), batch.mask)


@TERMS.register("jsd")
class JensenShannon(Distance):
    """T² · (β KL(p_t || m) + (1 - β) KL(p_s || m)) with m = β p_t + (1 - β) p_s, at temperature T.

    Agarwal et al. 2024 (GKD, arXiv:2306.13649), equation 1. Bounded; near β = 0 its gradient goes the way of forward
    KL, near 1 that of reverse KL, and it vanishes at either end.
    """

    name: Literal["jsd"]
    temperature: Temperature = 2.0
    beta: Alpha = 0.5

    @field_validator("beta")
    @classmethod
    def _inside(cls, beta: Scheduled) -> Scheduled:
        if {0, 1} & set(extremes(beta)):
            raise ValueError("must stay off 0 and 1, where the divergence is 0; its limits are kl and reverse_kl")
        return beta

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch

        from kdc.distill.terms.rows import by_rows, per_row

        student, teacher, temperature = at_temperature(batch, self.temperature)
        beta = by_rows(torch.as_tensor(value_at(self.beta, batch), dtype=student.dtype, device=student.device), student)
        mixture = torch.logaddexp(beta.log() + teacher, (1 - beta).log() + student)
        divergence = beta * kl_divergence(teacher, mixture) + (1 - beta) * kl_divergence(student, mixture)
        return per_row(temperature**2 * divergence, batch.mask)


@TERMS.register("tvd")
class TotalVariation(Distance):
    """T · ½ Σ |p_t - p_s| over the classes: the largest difference in the probability of any set of classes.

    Wen et al. 2023 (f-DISTILL, arXiv:2307.15190), TVD, at a temperature. Its gradient scales with 1/T, where
    that of a KL does with 1/T², so the factor is T.
    """

    name: Literal["tvd"]
    temperature: Temperature = 2.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row

        student, teacher, temperature = at_temperature(batch, self.temperature)
        distance = (teacher.exp() - student.exp()).abs().sum(dim=-1, keepdim=True) / 2
        return per_row(temperature * distance, batch.mask)


@TERMS.register("soft_cross_entropy")
class SoftCrossEntropy(Distance):
    """-T² Σ p_t log p_s over the classes, at temperature T: Hinton et al. 2015 (arXiv:1503.02531), section 2.

    It has the gradient of `kl`, and is larger by T² times the teacher's entropy, so it does not go to 0.
    """

    name: Literal["soft_cross_entropy"]
    temperature: Temperature = 2.0

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row

        student, teacher, temperature = at_temperature(batch, self.temperature)
        cross_entropy = -(teacher.exp() * student).sum(dim=-1, keepdim=True)
        return per_row(temperature**2 * cross_entropy, batch.mask)


@TERMS.register("logits_mse")
class LogitsMSE(Distance):
    """The mean of (z_s - z_t)² over the classes, no softmax taken.

    Ba and Caruana 2014 (arXiv:1312.6184), equation 1, whose sum and factor ½ belong to the weight. For logits that sum
    to 0 it is twice the limit of `kl` at high temperatures (arXiv:1503.02531, section 2.1).
    """

    name: Literal["logits_mse"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row, precise

        difference = precise(batch.student["logits"]) - precise(batch.teacher["logits"])
        return per_row(difference**2, batch.mask)


@TERMS.register("logits_cosine")
class LogitsCosine(Distance):
    """1 - cos(z_s, z_t): the direction of the logits, not their size, which is how sure the student is.

    The cosine loss of DistilBERT (Sanh et al. 2019, arXiv:1910.01108, section 2) on logits in place of hidden states.
    """

    name: Literal["logits_cosine"]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from torch.nn import functional

        from kdc.distill.terms.rows import per_row, precise

        student, teacher = precise(batch.student["logits"]), precise(batch.teacher["logits"])
        return per_row(1 - functional.cosine_similarity(student, teacher, dim=-1).unsqueeze(-1), batch.mask)


@TERMS.register("boundary")
class Boundary(Distance):
    """Forward KL, T² included, that counts an example the more, the closer the teacher is to its decision boundary.

    With the teacher's margin, the probability of its first class less that of its second (margin sampling of active
    learning: Scheffer, Decomain and Wrobel 2001; here as a weight), an example weighs exp(-margin / width), divided by
    the mean over all examples of the batch and all processes: the term's size stays that of `kl`. Where the teacher is
    torn between two classes, a row counts exp(1 / width) times as much as where it is sure. Tokens likewise.
    """

    name: Literal["boundary"]
    temperature: Temperature = 2.0
    width: PositiveFloat = 0.5

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import gathered, per_row, precise

        student, teacher, temperature = at_temperature(batch, self.temperature)
        divergence = temperature**2 * kl_divergence(teacher, student)
        first, second = precise(batch.teacher["logits"]).softmax(dim=-1).topk(2, dim=-1).values.split(1, dim=-1)
        closeness = ((second - first) / self.width).exp()
        return per_row(divergence * closeness, batch.mask) / gathered(per_row(closeness, batch.mask)).mean()
