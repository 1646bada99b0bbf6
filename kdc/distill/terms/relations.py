"""Self-attention relations of one layer (MiniLM and MiniLMv2): of queries, keys and values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from kdc.distill.terms.base import TERMS, Batch, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline


class Relation(Term):
    """How alike the tokens of a text are to one another in the vectors of one self-attention: KL(teacher || student)
    of softmax(A A^T / sqrt(d)), mean over heads and tokens.

    A are all tokens' queries, keys or values in one of `relation_heads` heads, `[length, d]`. The vectors of all
    attention heads, `[rows, length, width]`, stand side by side and are cut anew, so d = width / relation_heads of each
    model's own width, and neither widths nor attention heads need be equal. Wang et al. 2021 (MiniLMv2,
    arXiv:2012.15828), section 3.1. With as many relation heads as attention heads the relation of values is that of
    MiniLM (Wang et al. 2020, arXiv:2002.10957, section 3.2, L_VR), which goes with `attention`.

    Layers are counted from 0, or from the end with -1 for the last one: one layer of the student learns from one of the
    teacher, the last from the last in MiniLM; of large teachers MiniLMv2 takes one above the middle (section 3.2).
    """

    signal: ClassVar[str]
    by_token: ClassVar[bool] = True
    relation_heads: Annotated[int, Field(ge=1)] = 12
    student_layer: int = -1
    teacher_layer: int = -1

    def layers(self, student: Outline, teacher: Outline) -> Mapping[str, list[int]]:
        return {self.signal: [self.teacher_layer % len(teacher.shapes[self.signal])]}

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        if teacher is None:
            return
        found = []
        for key, model in (("student", student), ("teacher", teacher)):
            layer, shapes = getattr(self, f"{key}_layer"), model.shapes[self.signal]
            if -len(shapes) <= layer < len(shapes):
                found.append(shapes[layer])
            else:
                yield f"{key}_layer: {layer} is out of range; {model.name} has layers 0 to {len(shapes) - 1}"
        if len(found) < 2:
            return
        ours, theirs = found
        if ours[-1] % self.relation_heads or theirs[-1] % self.relation_heads:
            yield (
                f"relation_heads: {self.relation_heads} does not divide the widths of both {student.name} ({ours[-1]}) "
                f"and {teacher.name} ({theirs[-1]}); choose a divisor of {math.gcd(ours[-1], theirs[-1])}"
            )
        if ours[1] != theirs[1]:
            yield (
                f"{self.name} compares position by position, but {student.name} and {teacher.name} have different "
                f"ones ({list(ours)}, {list(theirs)})"
            )

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import token_mean

        ours = self._relations(batch.student[self.signal][self.student_layer], batch.mask)
        theirs = self._relations(batch.teacher[self.signal][self.teacher_layer], batch.mask)
        divergence = (theirs.exp() * (theirs - ours)).sum(dim=-1)  # [rows, heads, length]
        return token_mean(divergence.mean(dim=1), batch.mask)

    def _relations(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """`[rows, length, width]` -> the logarithm of `[rows, heads, length, length]`, whose rows sum to 1."""
        import torch
        from torch.nn import functional

        from kdc.distill.terms.rows import full_precision, precise

        heads = precise(vectors).unflatten(-1, (self.relation_heads, -1)).transpose(1, 2)
        with full_precision(heads):
            similarity = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
        if mask is not None:
            # finite, so that a padded token's part of the divergence is 0 times a number
            similarity = similarity.masked_fill(~mask[:, None, None, :], torch.finfo(similarity.dtype).min / 2)
        return functional.log_softmax(similarity, dim=-1)


@TERMS.register("query_relation")
class QueryRelation(Relation):
    """Relations of queries (Q-Q of MiniLMv2)."""

    signal: ClassVar[str] = "queries"
    reads: ClassVar[frozenset[str]] = frozenset({"queries"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"queries"})
    name: Literal["query_relation"]


@TERMS.register("key_relation")
class KeyRelation(Relation):
    """Relations of keys (K-K of MiniLMv2)."""

    signal: ClassVar[str] = "keys"
    reads: ClassVar[frozenset[str]] = frozenset({"keys"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"keys"})
    name: Literal["key_relation"]


@TERMS.register("value_relation")
class ValueRelation(Relation):
    """Relations of values (V-V of MiniLMv2, the value relation of MiniLM)."""

    signal: ClassVar[str] = "values"
    reads: ClassVar[frozenset[str]] = frozenset({"values"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"values"})
    name: Literal["value_relation"]
