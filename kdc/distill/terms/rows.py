"""What terms share on tensors: means over real tokens and rows, projections, gathering over processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def precise(values: Tensor) -> Tensor:
    """In float32 where it came in half precision: sums of many small squares and logarithms need it."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def full_precision(like: Tensor) -> torch.autocast:
    """In it, matrix products are as precise as what is multiplied: the training's autocast is off."""
    return torch.autocast(like.device.type, enabled=False)


def unit(vectors: Tensor) -> Tensor:
    """Scaled to length 1 along the last axis; zeros stay zeros, and their gradient finite."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.masked_fill(lengths == 0, 1)


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


def over_labelled(values: Tensor, labelled: Tensor) -> Tensor:
    """`[rows, ...]`, and which of them have a label -> `[rows]`: the mean over what is labelled in each row.

    Rows without any label are 0 and do not count: the others are scaled up, so that the mean over all rows of all
    processes is the one over rows with a label.
    """
    values, labelled = values.reshape(len(values), -1), labelled.reshape(len(labelled), -1)
    count = labelled.sum(dim=1)
    means = (values * labelled).sum(dim=1) / count.clamp(min=1)
    counting = gathered((count > 0).to(means))
    return means * len(counting) / counting.sum().clamp(min=1)


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


_STAND_IN: ContextVar[bool] = ContextVar("stand_in", default=False)


@contextmanager
def standing_in(*, yes: bool) -> Iterator[None]:
    """Whether the rows of this process are none of the batch, which has too few for all processes."""
    token = _STAND_IN.set(yes)
    try:
        yield
    finally:
        _STAND_IN.reset(token)


def gathered(values: Tensor) -> Tensor:
    """`[rows, ...]` of this process -> those of all processes in their order; gradients flow back to each.

    Every process must call it equally often. Rows need not be equally many; those of stand-ins are left out, unless
    there are no others.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_gather

    count = torch.tensor([len(values), 0 if _STAND_IN.get() else len(values)], device=values.device)
    counts = [torch.zeros_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    everybody, real = ([int(rows[which]) for rows in counts] for which in (0, 1))
    most = max(everybody)
    padded = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])])
    parts = all_gather(padded.contiguous())
    taken = real if any(real) else everybody
    return torch.cat([part[:rows] for part, rows in zip(parts, taken, strict=True)])
