"""What terms share: means over real tokens and rows, layer maps, projections, gathering over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

LayerMap = Literal["uniform", "top", "bottom", "last"] | list[tuple[int, int]]
"""How layers are paired: every student layer with one of the teacher's, the last two alone, or pairs of numbers from 0
(student's, teacher's)."""


def layer_pairs(choice: LayerMap, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of layer numbers from 0 of models with so many layers.

    `uniform`: student layer m of M learns from teacher layer ceil(m N / M) of N, counted from 1 (Jiao et al. 2020,
    arXiv:1909.10351, section 4.1, where N is a multiple of M); `top` and `bottom` take one end of the teacher.
    Raises ValueError for pairs that do not exist.
    """
    if isinstance(choice, list):
        for ours, theirs in choice:
            if not (0 <= ours < student and 0 <= theirs < teacher):
                raise ValueError(
                    f"layers: [{ours}, {theirs}] is out of range; the student has layers 0 to {student - 1}, "
                    f"the teacher 0 to {teacher - 1}"
                )
        return [(ours, theirs) for ours, theirs in choice]
    if choice == "last":
        return [(student - 1, teacher - 1)]
    if student > teacher:
        raise ValueError(f"layers: {choice} needs a teacher with as many layers as the student ({teacher} < {student})")
    if choice == "uniform":
        return [(layer, -(-(layer + 1) * teacher // student) - 1) for layer in range(student)]
    first = teacher - student if choice == "top" else 0
    return [(layer, layer + first) for layer in range(student)]


def precise(values: Tensor) -> Tensor:
    """In float32 where it came in half precision: sums of many small squares and logarithms need it."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """`[rows, length]` -> `[rows]`: the mean over the real tokens of each row."""
    if mask is None:
        return values.mean(dim=-1)
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def per_row(values: Tensor, mask: Tensor | None) -> Tensor:
    """`[rows, length, ...]` of texts, or `[rows, ...]` -> `[rows]`: the mean over everything real in a row."""
    if mask is None or values.ndim < 3:
        return values.flatten(1).mean(dim=1)
    return token_mean(values.flatten(2).mean(dim=2), mask)


def confidence(logits: Tensor) -> Tensor:
    """(p_max - 1/C) / (1 - 1/C) of C classes, `[rows]`; of tokens' logits the mean over tokens."""
    classes = logits.shape[-1]
    largest = functional.softmax(precise(logits), dim=-1).amax(dim=-1)
    share = (largest - 1 / classes) / (1 - 1 / classes)
    return share if share.ndim == 1 else share.flatten(1).mean(dim=1)


def by_rows(value: float | Tensor, like: Tensor) -> Any:
    """A setting that may differ from row to row, `[rows]`, shaped to multiply or divide `like` `[rows, ...]`."""
    return value.view(-1, *(1,) * (like.ndim - 1)) if isinstance(value, Tensor) else value


class Projections(nn.Module):
    """A linear from the student's width to the teacher's for every pair of layers; none where widths are equal."""

    def __init__(self, widths: Sequence[tuple[int, int]], *, bias: bool = True) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Linear(ours, theirs, bias=bias) for ours, theirs in widths
        )

    def forward(self, index: int, values: Tensor) -> Tensor:
        projected: Tensor = self.maps[index](values)
        return projected


def gathered(values: Tensor) -> Tensor:
    """`[rows, ...]` of this process -> those of all processes in their order; gradients flow back to each.

    Every process must call it equally often. Rows need not be equally many.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_gather

    count = torch.tensor([len(values)], device=values.device)
    counts = [torch.zeros_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    most = max(int(rows) for rows in counts)
    padded = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])])
    parts = all_gather(padded.contiguous())
    return torch.cat([part[: int(rows)] for part, rows in zip(parts, counts, strict=True)])
