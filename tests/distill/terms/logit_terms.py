"""What the tests of terms on logits share: terms by their YAML, batches of plain arrays, and what holds for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.terms.base import TERMS, Batch, Term
from tests.distill.terms.two_processes import in_two_processes

RNG = np.random.default_rng(7)
STUDENT, TEACHER = RNG.normal(0, 1.5, (6, 4)), RNG.normal(0, 2.5, (6, 4))
TOKENS, TEACHERS_TOKENS = RNG.normal(0, 1.5, (2, 3, 4)), RNG.normal(0, 2.5, (2, 3, 4))
MASK = np.array([[True, True, True], [True, False, False]])


def term(name: str, **settings: Any) -> Term:
    """As a loss's YAML has it."""
    return TERMS[name].model_validate({"name": name, **settings})


def batch(student: Any = STUDENT, teacher: Any = TEACHER, *, dtype: torch.dtype = torch.float64, **more: Any) -> Batch:
    """Logits, and labels and mask if given, all of them tensors or arrays."""
    student, teacher = (torch.as_tensor(logits).to(dtype) for logits in (student, teacher))
    more = {key: torch.as_tensor(value) if isinstance(value, np.ndarray) else value for key, value in more.items()}
    return Batch({"logits": student}, {"logits": teacher}, **more)


def value(loss: Term, *logits: Any, **more: Any) -> np.ndarray:
    """What a term makes of a batch, `[rows]` or a number."""
    found: np.ndarray = loss.loss(batch(*logits, **more)).numpy()
    return found


def gradient_is_right(loss: Term, student: Any = STUDENT, teacher: Any = TEACHER, **more: Any) -> bool:
    """By finite differences, in float64."""
    logits = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    return torch.autograd.gradcheck(lambda said: loss.loss(batch(said, teacher, **more)), logits)


def check_half_precision(loss: Term, dtype: torch.dtype, **more: Any) -> None:
    """Half-precision logits are computed with in float32: the value is that of the same logits in float32."""
    student, teacher = (torch.tensor(logits).to(dtype) for logits in (STUDENT, TEACHER))
    got = loss.loss(batch(student, teacher, dtype=dtype, **more))
    wanted = loss.loss(batch(student, teacher, dtype=torch.float32, **more))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def check_tokens(loss: Term, labels: np.ndarray | None = None) -> None:
    """A row's value is the mean over its real tokens of what each is worth alone, whatever stands in the padding."""
    labelled = {} if labels is None else {"labels": labels}
    alone = value(loss, TOKENS[MASK], TEACHERS_TOKENS[MASK], **({} if labels is None else {"labels": labels[MASK]}))
    got = value(loss, TOKENS, TEACHERS_TOKENS, mask=MASK, **labelled)
    np.testing.assert_allclose(got, [alone[:3].mean(), alone[3]])
    real = MASK[..., None]
    student, teacher = np.where(real, TOKENS, [50, 0, -50, 0]), np.where(real, TEACHERS_TOKENS, [0, -50, 0, 50])
    np.testing.assert_array_equal(value(loss, student, teacher, mask=MASK, **labelled), got)


def averaged_gradients(losses: Sequence[Term], **more: np.ndarray) -> list[np.ndarray]:
    """Those of two processes, the first with one row and the other with the rest, weighed as in training."""
    gradients = in_two_processes(_one_process, losses, more)
    return [(one + other).numpy() / 2 for one, other in zip(*gradients, strict=True)]


def _one_process(rank: int, losses: Sequence[Term], more: dict[str, np.ndarray]) -> list[Any]:
    rows, found = [slice(0, 1), slice(1, 6)][rank], []
    ours = {key: array[rows] for key, array in more.items()}
    for loss in losses:
        student = torch.tensor(STUDENT, requires_grad=True)
        share = 2 * len(STUDENT[rows]) / len(STUDENT)
        (loss.loss(batch(student[rows], TEACHER[rows], **ours)).mean() * share).backward()
        found.append(student.grad)
    return found


def gradient(loss: Term, **more: Any) -> np.ndarray:
    """Of the term's mean by the student's logits, in one process."""
    student = torch.tensor(STUDENT, requires_grad=True)
    loss.loss(batch(student, **more)).mean().backward()
    assert student.grad is not None
    return student.grad.numpy()


HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
