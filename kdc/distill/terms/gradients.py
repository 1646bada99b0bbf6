"""Matching the derivative of the output with respect to the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.distill.terms.base import TERMS, Batch, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline


@TERMS.register("jacobian")
class Jacobian(Term):
    """Squared distance of the student's gradient to the teacher's, each scaled to length 1 row by row.

    Both are gradients of one logit, that of the class which the teacher finds likeliest, with respect to the input
    embeddings `[rows, length, width]` of texts or the pixels `[rows, channels, height, width]`. Srinivas and Fleuret
    2018 (arXiv:1803.00443), equation 10, the part on Jacobians; matching derivatives is due to Czarnecki et al. 2017
    (Sobolev training, arXiv:1706.04859).

    `compare`: the `gradient` itself, which for texts wants a student with its teacher's embeddings; or its `norm` at
    every token or place, which tells how much hangs on it, whatever the widths. The student is differentiated twice:
    that takes time, attention computed in the plain way, and a model that is not compiled.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"logits", "input_embeddings"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"logits", "input_gradients"})
    by_token: ClassVar[bool] = True
    name: Literal["jacobian"]
    compare: Literal["gradient", "norm"] = "gradient"

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        if teacher is None:
            return
        for model in (student, teacher):
            if len(shape := model.shapes["logits"][0]) != 2:
                yield f"jacobian differentiates one answer a row, but the logits of {model.name} are {list(shape)}"
                return
        [ours], [theirs] = student.shapes["input_embeddings"], teacher.shapes["input_gradients"]
        both = f"those of {student.name} are {list(ours)}, those of {teacher.name} {list(theirs)}"
        if _places(ours) != _places(theirs):
            yield f"jacobian compares inputs place by place, but {both}"
        elif self.compare == "gradient" and ours != theirs:
            yield f"compare: gradient needs inputs of one width, but {both}; compare: norm does not"

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch

        from kdc.distill.terms.rows import precise, unit

        logits, embeddings = batch.student["logits"], batch.student["input_embeddings"]
        likeliest = batch.teacher["logits"].argmax(dim=-1, keepdim=True)
        [ours] = torch.autograd.grad(logits.gather(-1, likeliest).sum(), embeddings, create_graph=True)

        def profile(gradient: Tensor) -> Tensor:
            values = precise(gradient)
            if batch.mask is not None:
                values = values * batch.mask.unsqueeze(-1)
            if self.compare == "norm":
                values = torch.linalg.vector_norm(values, dim=_width_axis(values.ndim))
            return unit(values.flatten(1))

        return (profile(ours) - profile(batch.teacher["input_gradients"])).square().sum(dim=1)


def _width_axis(axes: int) -> int:
    """Which axis of `[rows, length, width]` or `[rows, channels, height, width]` does not number places."""
    return 1 if axes == 4 else axes - 1


def _places(shape: Sequence[int]) -> list[int]:
    return [size for axis, size in enumerate(shape) if axis != _width_axis(len(shape))]
