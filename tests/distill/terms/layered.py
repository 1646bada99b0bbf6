"""What the tests of terms on layers share: drawn signals, real ones of two BERTs, and a term's value on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdc.distill.terms.base import TERMS, Batch, Term, all_problems
from kdc.models.taps import Outline, Taps, outline
from tests import tiny

Layers = Sequence[np.ndarray]
LENGTHS = (5, 3, 1)
MASK = np.arange(5) < np.array(LENGTHS)[:, None]
"""Three rows of 5, 3 and 1 tokens."""


def term(name: str, **settings: Any) -> Term:
    """As a loss's YAML has it."""
    return TERMS[name].model_validate({"name": name, **settings})


def drawn(layers: int, *shape: int, seed: int) -> Layers:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for _ in range(layers)]


def shapes_of(signal: str, layers: Layers, *, name: str = "it", vocabulary: str | None = "words") -> Outline:
    return Outline(name, {signal: tuple(np.shape(layer) for layer in layers)}, vocabulary)


def outlines(signal: str, student: Layers, teacher: Layers, *, vocabulary: str = "words") -> tuple[Outline, Outline]:
    return (
        shapes_of(signal, student, name="the student"),
        shapes_of(signal, teacher, name="the teacher", vocabulary=vocabulary),
    )


def head_of(loss: Term, signal: str, student: Layers, teacher: Layers) -> nn.Module | None:
    torch.manual_seed(0)
    head = loss.head(*outlines(signal, student, teacher))
    return head if head is None else head.double()


def value(
    loss: Term,
    signal: str,
    student: Layers | Sequence[Tensor],
    teacher: Layers,
    *,
    mask: np.ndarray | None = None,
    head: Callable[[int, Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    without: int | None = None,
) -> Tensor:
    """`[rows]`: what a term makes of these signals, with None for layers of the teacher that it does not name.

    `without` takes one more layer away.
    """
    named = loss.layers(*outlines(signal, student, teacher))[signal]  # type: ignore[arg-type]
    assert named == sorted(set(named))
    batch = Batch(
        {signal: tuple(torch.as_tensor(layer).to(dtype) for layer in student)},
        {
            signal: tuple(
                torch.as_tensor(layer).to(dtype) if i in named and i != without else None
                for i, layer in enumerate(teacher)
            )
        },
        mask=None if mask is None else torch.as_tensor(mask),
    )
    return loss.loss(batch, head)  # type: ignore[arg-type]


def problems(loss: Term, signal: str, student: Layers, teacher: Layers, **settings: Any) -> list[str]:
    return all_problems({"mine": loss}, *outlines(signal, student, teacher, **settings))


def is_named(loss: Term, signal: str, student: Layers, teacher: Layers, head: nn.Module | None = None) -> list[int]:
    """The teacher's layers without which the term has no value."""
    needed = []
    for layer in range(len(teacher)):
        try:
            value(loss, signal, student, teacher, head=head, without=layer)
        except (AttributeError, TypeError):
            needed.append(layer)
    return needed


def gradients_are_right(loss: Callable[..., Tensor], *inputs: np.ndarray | Tensor) -> bool:
    """By finite differences, in float64."""
    tensors = [torch.as_tensor(values).detach().clone().requires_grad_() for values in inputs]
    return torch.autograd.gradcheck(loss, tensors)


def rows_of(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each row's number, and the numbers of its tokens."""
    return ((row, np.flatnonzero(real)) for row, real in enumerate(mask))


def texts(padding: int = 0) -> dict[str, Tensor]:
    """Inputs of three texts of 5, 3 and 1 tokens, and so much padding behind the longest, at most 5."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 40, size=(3, 10)))[:, : 5 + padding]
    mask = torch.nn.functional.pad(torch.from_numpy(MASK).long(), (0, padding))
    return {"input_ids": ids, "attention_mask": mask}


def berts(*, heads: int = 2) -> tuple[Any, Any]:
    """Student and teacher in float64: two layers, 16 wide, and four layers, 24 wide."""
    sizes = {"intermediate_size": 24, "vocab_size": 40}
    student = tiny.bert(layers=2, hidden_size=16, num_attention_heads=heads, seed=1, **sizes)
    teacher = tiny.bert(layers=4, hidden_size=24, num_attention_heads=2, seed=2, **sizes)
    return student.double(), teacher.double()


def check_real_models(loss: Term, *, zero_at_itself: bool = True) -> None:
    """Real signals fit: rows and padding do not touch one another, the gradient reaches the student, and a model has
    nothing to learn from itself."""
    student, teacher = berts()
    shapes = [outline(model, loss.reads, name=name, vocabulary="v") for model, name in ((student, "s"), (teacher, "t"))]
    assert all_problems({"mine": loss}, *shapes) == []
    torch.manual_seed(0)
    head = loss.head(shapes[0], shapes[1])
    head = head and head.double()
    whole = _of_models(loss, student, teacher, texts(), head)
    assert whole.shape == (3,)
    assert bool((whole > 0).sum() >= 2)  # the attention of a text of one token is 1 whatever the model
    torch.testing.assert_close(_of_models(loss, student, teacher, texts(padding=4), head), whole)
    alone = [
        _of_models(loss, student, teacher, {key: ids[row : row + 1, :length] for key, ids in texts().items()}, head)
        for row, length in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(torch.cat(alone), whole)
    whole.mean().backward()
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in student.parameters())
    assert head is None or all(bool(p.grad.abs().max() > 0) for p in head.parameters())
    if zero_at_itself:
        themselves = [outline(teacher, loss.reads, name=name, vocabulary="v") for name in ("s", "t")]
        same = _of_models(loss, teacher, teacher, texts(), loss.head(themselves[0], themselves[1]))
        torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)


def _of_models(loss: Term, student: Any, teacher: Any, inputs: Mapping[str, Tensor], head: nn.Module | None) -> Tensor:
    said = []
    for model in (student, teacher):
        taps = Taps(model, loss.reads)
        said.append(taps(inputs))
        taps.close()
    return loss.loss(Batch(*said, mask=inputs["attention_mask"].bool()), head)
