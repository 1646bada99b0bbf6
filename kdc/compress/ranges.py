"""Ranges of activations from calibration rows: all there was, all but the tails, or what loses least information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kdc.compress.plan import Range

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration

Method = Literal["minmax", "percentile", "entropy"]
BINS = 2048
LEVELS = 128
"""Of one sign, in 8 bits."""


@dataclass(frozen=True)
class Histogram:
    """How often values fell between `low` and `high`, in equal parts."""

    counts: np.ndarray
    low: float
    high: float

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def measured(
    model: nn.Module, names: list[str], rows: Calibration, *, method: Method, percentile: float
) -> dict[str, list[Range]]:
    """The range of what each module reads, and behind it of what it puts out if it is a convolution."""
    ends = _ends(model, names, rows)
    if method == "minmax":
        return ends
    found = {name: [Histogram(np.zeros(BINS), *end) for end in sides] for name, sides in ends.items()}
    for seen in rows.seen_by(model, names):
        for name, sides in seen.items():
            for own, values in zip(found[name], sides, strict=True):
                own.counts[:] += _count(values, own)
    pick = entropy_range if method == "entropy" else lambda own: percentile_range(own, percentile)
    return {name: [pick(own) for own in sides] for name, sides in found.items()}


def percentile_range(seen: Histogram, percentile: float) -> Range:
    """What lies between the percentiles `100 - percentile` and `percentile`, to the edge of a bin."""
    total = seen.counts.cumsum() / seen.counts.sum()
    outside = 1 - percentile / 100
    first = int(np.searchsorted(total, outside, side="right"))
    last = int(np.searchsorted(total, 1 - outside, side="left"))
    return float(seen.edges[first]), float(seen.edges[last + 1])


def entropy_range(seen: Histogram) -> Range:
    """The values up to the size T, where T loses least: the smallest divergence KL(P, Q) of the sizes below T (those
    beyond counted at T) from what `LEVELS` equal steps leave of them.

    Migacz 2017, "8-bit inference with TensorRT", slides 37 to 39: Q spreads what falls into a step evenly over its
    bins that held something.
    """
    if seen.low == seen.high:
        return seen.low, seen.high
    width = (seen.high - seen.low) / len(seen.counts)
    middles = np.abs((seen.edges[:-1] + seen.edges[1:]) / 2)
    sizes = np.bincount((middles / width).astype(int), weights=seen.counts)
    candidates = [*range(LEVELS, len(sizes), LEVELS // 8), len(sizes)]
    losses = {bins: _divergence(sizes, bins) for bins in candidates}
    limit = width * min(losses, key=lambda bins: losses[bins])
    return max(seen.low, -limit), min(seen.high, limit)


def _divergence(sizes: np.ndarray, bins: int) -> float:
    wanted = sizes[:bins].copy()
    wanted[-1] += sizes[bins:].sum()
    steps = np.arange(bins) * LEVELS // bins
    held = sizes[:bins] > 0
    mass = np.bincount(steps, weights=sizes[:bins], minlength=LEVELS)
    among = np.bincount(steps, weights=held, minlength=LEVELS)
    got = np.where(held, mass[steps] / np.maximum(among[steps], 1), 0)
    if not got.sum() or (wanted[-1] and not got[-1]):
        return float("inf")  # what is beyond has no place to go
    own, other = wanted / wanted.sum(), got / got.sum()
    there = own > 0
    return float((own[there] * np.log(own[there] / other[there])).sum())


def _ends(model: nn.Module, names: list[str], rows: Calibration) -> dict[str, list[Range]]:
    """The smallest and the largest of all values; zero is always among them."""
    found: dict[str, list[Range]] = {}
    for seen in rows.seen_by(model, names):
        for name, sides in seen.items():
            before = found.get(name, [(0.0, 0.0)] * len(sides))
            now = [tuple(map(float, values.aminmax())) for values in sides]
            found[name] = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(before, now, strict=True)]
    return found


def _count(values: Tensor, into: Histogram) -> np.ndarray:
    import torch

    if into.low == into.high:
        return np.full(len(into.counts), values.numel() / len(into.counts))
    return torch.histc(values.float(), len(into.counts), into.low, into.high).double().cpu().numpy()
