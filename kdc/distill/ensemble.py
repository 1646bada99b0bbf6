"""Several teachers that speak as one: their logits averaged, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdc.distill.signals import Source
from kdc.distill.terms.rows import confidence


class Ensemble:
    """A `Source` of logits alone: sum of w_k z_k over the teachers k, with weights that sum to 1 in every row.

    The mean of logits is the geometric mean of the distributions, at every temperature (Hinton et al. 2015,
    arXiv:1503.02531, section 2, name both means). `combine` says how `weights` (1 where none is given) are changed from
    row to row: `mean` not at all, `confidence` times how sure the teacher is, `agreement` times 1 - the total variation
    between its distribution and the mean of the others'.
    """

    def __init__(self, sources: Mapping[str, Source], *, combine: str, weights: Mapping[str, float]) -> None:
        self.sources = dict(sources)
        self.combine = combine
        self.weights = torch.tensor([weights.get(name, 1.0) for name in self.sources])

    def __call__(self, rows: Sequence[int]) -> dict[str, Any]:
        said = [source(rows)["logits"] for source in self.sources.values()]
        return {
            "logits": combined(torch.stack([logits.to(said[0].device) for logits in said]), self.weights, self.combine)
        }


def combined(logits: Tensor, weights: Tensor, how: str) -> Tensor:
    """`[teachers, rows, ..., classes]` and `[teachers]` -> `[rows, ..., classes]`."""
    shares = weights.to(logits).view(-1, *(1,) * (logits.ndim - 2)).expand(logits.shape[:-1])
    if how == "confidence":
        trust = torch.stack([confidence(own) for own in logits])  # [teachers, rows]
        shares = shares * trust.view(*trust.shape, *(1,) * (logits.ndim - 3))
    elif how == "agreement":
        shares = shares * _agreement(logits)
    total = shares.sum(dim=0)
    # where no teacher has a say, all have the same
    shares = torch.where(total > 0, shares / total.clamp(min=torch.finfo(logits.dtype).tiny), 1 / len(logits))
    return (shares[..., None] * logits).sum(dim=0)


def _agreement(logits: Tensor) -> Tensor:
    """1 - total variation between each teacher and the mean of the others, `[teachers, rows, ...]`."""
    shares = logits.softmax(dim=-1)
    others = (shares.sum(dim=0, keepdim=True) - shares) / (len(shares) - 1)
    return 1 - (shares - others).abs().sum(dim=-1) / 2
