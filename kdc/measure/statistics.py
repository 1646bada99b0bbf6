"""Numbers with their uncertainty: percentiles, ratios over rounds, bootstrap intervals. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

ENOUGH_SAMPLES = {90: 64, 99: 662}
"""The fewest samples from which a percentile is told; with fewer, its estimate is little more than the maximum."""

Interval = tuple[float, float]


def percentile(samples: Sequence[float], q: int) -> float | None:
    """The `q`-th percentile (90 or 99) with linear interpolation; none where the samples are too few for it."""
    return float(np.percentile(samples, q)) if len(samples) >= ENOUGH_SAMPLES[q] else None


def paired_ratio(other: ArrayLike, own: ArrayLike) -> tuple[float, Interval | None]:
    """How many times larger `other` is than `own`, round by round, with a 95% interval from three rounds on.

    exp of the mean of d_r = ln(other_r / own_r) over the rounds r, and of its Student t interval: a ratio of medians
    has a skewed error, its logarithm a nearly symmetric one, and drift of the machine between rounds cancels in d_r.
    """
    differences = np.log(np.asarray(other, dtype=np.float64) / np.asarray(own, dtype=np.float64))
    if len(differences) < 3:
        return math.exp(differences.mean()), None
    mean, low, high = mean_interval(differences, 0.95)
    return math.exp(mean), (math.exp(low), math.exp(high))


def mean_interval(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean of at least two `values` and the ends of its two-sided Student t interval (Student 1908)."""
    from scipy.special import stdtrit  # the quantile of t without the half second that importing scipy.stats takes

    mean = float(values.mean())
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def bootstrap_intervals(
    rescore: Callable[[np.ndarray], Mapping[str, np.ndarray]], rows: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """95% percentile bootstrap intervals over rows (Efron and Tibshirani 1993, chapter 13), several metrics at once.

    `rescore` takes row numbers `[draws, rows]` and returns every metric `[draws]`. The seed is fixed, so that variants
    measured on the same rows are resampled alike. One row has no interval.
    """
    if rows < 2:
        return {}
    generator = np.random.default_rng(seed)
    # A chunk of draws at a time: a thousand resamples of 10,000 rows are 80 MB of row numbers.
    chunk = max(1, min(resamples, 1_000_000 // rows))
    scores: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, chunk):
        draws = generator.integers(0, rows, size=(min(chunk, resamples - start), rows))
        for name, values in rescore(draws).items():
            scores.setdefault(name, []).append(values)
    intervals = {}
    for name, parts in scores.items():
        low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
        intervals[name] = (float(low), float(high))
    return intervals
