"""What a loss term is, what it is given, and the family's registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from kdc.data.examples import IGNORED as IGNORED
from kdc.distill.schedules import Weight, asks_confidence, extremes
from kdc.registry import Component, Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline, Signals


@dataclass(frozen=True)
class Batch:
    """What student and teacher say of one batch, and where the training stands (`progress` in [0, 1)).

    The teacher's layered signals are tuples as long as it has layers, with None for those that no term reads. `mask`
    tells real tokens from padding, bool `[rows, length]`; None where rows have no tokens.
    """

    student: Signals
    teacher: Signals = field(default_factory=dict)
    labels: Tensor | None = None
    mask: Tensor | None = None
    progress: float = 0.0

    @cached_property
    def confidence(self) -> Tensor:
        """How sure the teacher is of each row, `[rows]` from 0 (all classes alike) to 1."""
        from kdc.distill.terms.rows import confidence

        return confidence(self.teacher["logits"])


class Term(Component):
    """One weighted part of a distillation loss.

    `reads` names the signals it gets from the student, `reads_of_teacher` those from the teacher (see
    `kdc.models.taps`). A term `by_token` compares the two token by token, so both must cut texts alike. A term that is
    not `by_row` compares examples with one another, or reads none.
    """

    reads: ClassVar[frozenset[str]]
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset()
    needs_labels: ClassVar[bool] = False
    by_token: ClassVar[bool] = False
    by_row: ClassVar[bool] = True
    name: str
    weight: Weight = 1.0

    @abstractmethod
    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        """The raw (unweighted) value of each row, `[rows]`; a scalar if not `by_row`. Computed in float32.

        Rows count alike, however long they are: the value of a row is the mean over its tokens.
        """

    def head(self, student: Outline, teacher: Outline) -> nn.Module | None:
        """What is trained along with the student and does not ship (projections), if this term needs any."""
        return None

    def layers(self, student: Outline, teacher: Outline) -> Mapping[str, list[int]]:
        """The layers it reads of the teacher's layered signals, counted as the signal counts; absent: all."""
        return {}

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        """Why these two cannot be compared by this term, known before anything is trained."""
        return iter(())

    @property
    def is_off(self) -> bool:
        """Whether its weight is 0 throughout."""
        return extremes(self.weight) == (0, 0)

    @property
    def reads_answers(self) -> bool:
        """Whether it reads no more of a model than its answers."""
        return self.reads == {"logits"} and self.asks_of_teacher <= {"logits"}

    @property
    def teaches_by_answers(self) -> bool:
        """Whether it hands on the teacher's answers, and needs neither labels nor more of a model."""
        return self.reads_answers and bool(self.asks_of_teacher) and not (self.needs_labels or self.is_off)

    @property
    def asks_of_teacher(self) -> frozenset[str]:
        """`reads_of_teacher`, and the logits where a setting depends on the teacher's confidence."""
        by_confidence = any(asks_confidence(getattr(self, key)) for key in type(self).model_fields)
        return self.reads_of_teacher | {"logits"} if by_confidence else self.reads_of_teacher


def all_problems(terms: Mapping[str, Term], student: Outline, teacher: Outline | None) -> list[str]:
    """What keeps these terms from comparing these two, each line with its dotted key."""
    return [f"loss.terms.{key}: {problem}" for key, term in terms.items() for problem in _of(term, student, teacher)]


def _of(term: Term, student: Outline, teacher: Outline | None) -> Iterator[str]:
    sides = [(student, term.reads), *([(teacher, term.asks_of_teacher)] if teacher is not None else [])]
    missing = [(model, signal) for model, wanted in sides for signal in sorted(wanted) if signal not in model]
    for model, signal in missing:
        yield f"{term.name} reads {signal}, which {model.name} does not have"
    if not term.by_row and asks_confidence(term.weight):
        yield f"{term.name} is no mean over rows, so its weight cannot differ from row to row"
    if term.by_token and teacher is not None and student.vocabulary != teacher.vocabulary:
        yield (
            f"{term.name} compares token by token, but {student.name} and {teacher.name} have different tokenizers; "
            "terms on logits work across tokenizers"
        )
    elif term.by_token and teacher is not None and student.max_length != teacher.max_length:
        yield (
            f"{term.name} compares token by token, but {student.name} takes {student.max_length} and {teacher.name} "
            f"{teacher.max_length}; set dataset.max_length to what both take"
        )
    elif not missing:
        yield from term.problems(student, teacher)


TERMS: Registry[Term] = Registry(
    "loss term",
    [
        f"kdc.distill.terms.{family}"
        for family in (
            "logits", "divergences", "decoupled", "outputs", "features", "attention", "relations", "maps", "examples",
            "contrastive", "gradients", "sparsity",
        )
    ],
)  # fmt: skip
