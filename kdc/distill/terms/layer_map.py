"""Which layer of the student learns from which of the teacher. No torch: settings are made of it."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Literal

from pydantic import Field

Pair = tuple[int, int]
LayerMap = Literal["uniform", "top", "bottom", "last"] | Annotated[list[Pair], Field(min_length=1)]
"""How layers are paired: every student layer with one of the teacher's, the last two alone, or pairs of numbers from 0
(student's, teacher's)."""


def layer_pairs(choice: LayerMap, student: int, teacher: int) -> list[Pair]:
    """Pairs of layer numbers from 0 of models with so many layers.

    `uniform`: student layer m of M learns from teacher layer ceil(m N / M) of N, counted from 1 (Jiao et al. 2020,
    arXiv:1909.10351, section 4.1, where N is a multiple of M); `top` and `bottom` take one end of the teacher.
    Raises ValueError for pairs that do not exist.
    """
    if isinstance(choice, list):
        for ours, theirs in choice:
            if not (0 <= ours < student and 0 <= theirs < teacher):
                raise ValueError(
                    f"layer_map: [{ours}, {theirs}] is out of range; the student has layers 0 to {student - 1}, "
                    f"the teacher 0 to {teacher - 1}"
                )
        return list(choice)
    if choice == "last":
        return [(student - 1, teacher - 1)]
    if student > teacher:
        raise ValueError(
            f"layer_map: {choice} needs a teacher with as many layers as the student ({teacher} < {student}); "
            "choose last, or name the pairs"
        )
    if choice == "uniform":
        return [(layer, -(-(layer + 1) * teacher // student) - 1) for layer in range(student)]
    first = teacher - student if choice == "top" else 0
    return [(layer, layer + first) for layer in range(student)]


def state_pairs(choice: LayerMap, student: Sized, teacher: Sized) -> list[Pair]:
    """The same for models with these hidden states, in whose numbers the embeddings come first (0)."""
    return [(ours + 1, theirs + 1) for ours, theirs in layer_pairs(choice, len(student) - 1, len(teacher) - 1)]
