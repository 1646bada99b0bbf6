"""Terms over all processes' rows: what two processes make of a batch, against what one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdc.distill.terms.base import Batch, Term
from kdc.models.taps import Outline
from tests.distill.terms.two_processes import in_two_processes

ROWS = 8
SPLITS = (((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 1, 2), (3, 4, 5, 6, 7)))
"""Equal parts, and unequal ones."""


class Learner(nn.Module):
    """A linear student of width 8, whose features are feature maps [2, 2, 2] too, with its term."""

    def __init__(self, term: Term) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.term = term
        self.student = nn.Linear(5, 8)
        self.head = term.head(outline_of(8), outline_of(6))
        self.double()

    def forward(self, rows: Sequence[int]) -> Tensor:
        picked, drawn = list(rows), torch.randn(ROWS, 23, generator=torch.Generator().manual_seed(1)).double()
        inputs, teacher, maps = (part[picked] for part in drawn.split((5, 6, 12), dim=1))
        features = self.student(inputs)
        batch = Batch(
            {"features": features, "hidden_states": (features, features.view(-1, 2, 2, 2))},
            {"features": teacher, "hidden_states": (None, maps.view(-1, 3, 2, 2))},
            labels=torch.tensor([0, 1, 2, 0, 0, -100, 2, -100])[picked],
        )
        return self.term.loss(batch, self.head)


def outline_of(width: int) -> Outline:
    return Outline("it", {"features": ((2, width),)})


def check(terms: Sequence[Term]) -> None:
    """Both processes have the value and the gradients of one process with all rows, however rows are dealt out."""
    in_two = in_two_processes(_one_process, terms)
    in_one = [_seen(Learner(term), range(ROWS), share=1.0) for term in terms] * len(SPLITS)
    for seen in in_two:
        assert len(seen) == len(in_one)
        for (value, gradients), (alone, own) in zip(seen, in_one, strict=True):
            torch.testing.assert_close(value, alone)
            torch.testing.assert_close(gradients, own)
            assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-6


def _one_process(rank: int, terms: Sequence[Term]) -> list[tuple[Tensor, list[Tensor]]]:
    """Keeps what it sees of every split and term; gradients are averaged by DDP, losses weighed as training does."""
    return [
        _seen(DistributedDataParallel(Learner(term)), split[rank], share=2 * len(split[rank]) / ROWS)
        for split in SPLITS
        for term in terms
    ]


def _seen(learner: Any, rows: Sequence[int], *, share: float) -> tuple[Tensor, list[Tensor]]:
    """The value, and the gradients of all parameters."""
    value = learner(rows)
    (value * share).backward()
    return value.detach(), [parameter.grad for parameter in learner.parameters()]
