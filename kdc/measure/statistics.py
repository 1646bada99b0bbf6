"""Numbers with their uncertainty: percentiles, ratios over rounds. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

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

    exp of the estimate of d_r = ln(other_r / own_r) over the rounds r by `signed_ranks`, because a ratio of medians
    has a skewed error, its logarithm a nearly symmetric one, and drift of the machine between rounds cancels in d_r.
    The interval is that of the signed ranks too; three to five rounds are too few for it and get Student's t.
    """
    differences = np.log(np.asarray(other, dtype=np.float64) / np.asarray(own, dtype=np.float64))
    estimate, low, high = signed_ranks(differences, confidence=0.975)
    rounds = len(differences)
    if rounds < 3:
        return math.exp(estimate), None
    if math.isinf(low):
        from scipy.special import stdtrit  # the quantile of t without the half second that importing scipy.stats takes

        mean = float(differences.mean())
        half = float(stdtrit(rounds - 1, 0.975) * differences.std(ddof=1)) / math.sqrt(rounds)
        low, high = mean - half, mean + half
    return math.exp(estimate), (math.exp(low), math.exp(high))


def signed_ranks(differences: np.ndarray, *, confidence: float) -> tuple[float, float, float]:
    """The centre of paired differences `[rounds]`, and one-sided bounds that each hold with at least `confidence`.

    The estimate is the median of the Walsh averages (d_i + d_j) / 2, i <= j, and each bound an order statistic of them:
    Hodges and Lehmann 1963, and the interval that inverts Wilcoxon's signed-rank test (Hollander, Wolfe and Chicken
    2014, section 3.3). Swapping the two artifacts turns the sign of d_r, so differences of equal artifacts are
    symmetric whatever the machine does, which is all that these bounds assume; and a burst that hits one process of
    one round moves them little, where it would widen those of a mean by an order of magnitude.
    Rounds too few for `confidence` have infinite bounds.
    """
    if not np.isfinite(differences).all() or not len(differences):
        raise ValueError(f"differences must be finite and at least one: {differences}")
    first, second = _pairs(len(differences))
    walsh = np.sort(differences[first] + differences[second]) / 2
    outside = _outside(len(differences), 1 - confidence)
    low, high = (-math.inf, math.inf) if outside is None else (float(walsh[outside]), float(walsh[-1 - outside]))
    return float(np.median(walsh)), low, high


@cache
def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count)


@cache
def _outside(count: int, error: float) -> int | None:
    """How many Walsh averages lie outside each bound: the largest k with P(T+ < k + 1) <= error; None if there is none.

    T+ is the sum of those ranks 1..count whose differences are positive, each with probability 1/2.
    """
    ways = np.zeros(count * (count + 1) // 2 + 1)  # of reaching each sum
    ways[0] = 1.0
    for rank in range(1, count + 1):
        ways[rank:] += ways[:-rank].copy()
    below = int(np.searchsorted(np.cumsum(ways) / 2.0**count, error, side="right"))
    return below - 1 if below else None
