"""Attention maps, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.distill.terms.base import TERMS, Batch, Term
from kdc.distill.terms.layer_map import LayerMap, layer_pairs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline


@TERMS.register("attention")
class Attention(Term):
    """Distance of the student's attention maps to the teacher's, layer by layer; layers add up.

    Maps are probabilities `[rows, heads, length, length]`, row t of a matrix being what token t attends to.

    `kl`: KL(teacher || student) of every token's distribution, mean over heads and tokens (Wang et al. 2020, MiniLM,
    arXiv:2002.10957, section 3.1, L_AT; there of the last layer). `mse`: mean over heads and pairs of tokens of the
    squared difference. `mse_scores`: the same of what softmax makes the probabilities of, which is what TinyBERT fits
    (Jiao et al. 2020, arXiv:1909.10351, equation 7: 1/h sum over heads of MSE(A_s, A_t), A unnormalized). Models put
    out probabilities only; their logarithm is the score up to a constant per token, which softmax removes, so scores
    are compared after their mean over the tokens that are seen is taken off: the paper's value less the part that
    changes no attention.

    `heads`: `each` head learns from the teacher's of the same number; `mean` compares averages over heads (of
    probabilities or scores), whose number may differ then.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"attentions"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"attentions"})
    by_token: ClassVar[bool] = True
    name: Literal["attention"]
    distance: Literal["kl", "mse", "mse_scores"] = "kl"
    layer_map: LayerMap = "uniform"
    heads: Literal["each", "mean"] = "each"

    def layers(self, student: Outline, teacher: Outline) -> Mapping[str, list[int]]:
        pairs = layer_pairs(self.layer_map, len(student.shapes["attentions"]), len(teacher.shapes["attentions"]))
        return {"attentions": sorted({theirs for _, theirs in pairs})}

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        if teacher is None:
            return
        ours, theirs = student.shapes["attentions"], teacher.shapes["attentions"]
        try:
            pairs = layer_pairs(self.layer_map, len(ours), len(theirs))
        except ValueError as error:
            yield str(error)
            return
        for i, j in pairs:
            if self.heads == "each" and ours[i][1] != theirs[j][1]:
                yield (
                    f"heads: {student.name} has {ours[i][1]} in layer {i}, {teacher.name} has {theirs[j][1]} in layer "
                    f"{j}; compare their averages with heads: mean, or relations, which need no equal heads"
                )
                return
            if ours[i][2:] != theirs[j][2:]:
                yield (
                    f"attention compares position by position, but {student.name} and {teacher.name} have different "
                    f"ones ({list(ours[i])}, {list(theirs[j])})"
                )
                return

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch

        student, teacher = batch.student["attentions"], batch.teacher["attentions"]
        pairs = layer_pairs(self.layer_map, len(student), len(teacher))
        return torch.stack([self._distance(student[i], teacher[j], batch.mask) for i, j in pairs]).sum(dim=0)

    def _distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """`[rows]`: of one pair of layers."""
        import torch

        from kdc.distill.terms.rows import precise, token_mean

        ours, theirs = precise(student), precise(teacher)
        real = torch.ones_like(theirs[:, 0, 0], dtype=torch.bool) if mask is None else mask
        counted = real[:, None, :, None] & real[:, None, None, :]
        if self.distance == "mse_scores":
            # a decoder does not see what comes later, and half precision cannot tell the least probable from 0
            counted = counted & ((theirs if self.heads == "each" else theirs.amin(dim=1, keepdim=True)) > 0)
            ours, theirs = scores(ours, counted), scores(theirs, counted)
        if self.heads == "mean":
            ours, theirs = ours.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
        if self.distance == "kl":
            divergence = (theirs * (log(theirs) - log(ours))).sum(dim=-1).mean(dim=1)  # [rows, length]
            return token_mean(divergence, mask)
        squares = (ours - theirs).square() * counted
        return squares.flatten(1).sum(dim=1) / counted.expand_as(squares).flatten(1).sum(dim=1).clamp(min=1)


def log(probabilities: Tensor) -> Tensor:
    """The logarithm, finite at 0."""
    import torch

    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def scores(attention: Tensor, counted: Tensor) -> Tensor:
    """`[rows, heads, length, length]`: the logarithm less its mean over what counts in each row of the matrix."""
    logarithm = log(attention) * counted
    mean = logarithm.sum(dim=-1, keepdim=True) / counted.sum(dim=-1, keepdim=True).clamp(min=1)
    return (logarithm - mean) * counted
