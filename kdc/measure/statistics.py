"""Numbers with their uncertainty: percentiles, ratios over rounds. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    mean = float(differences.mean())
    if len(differences) < 3:
        return math.exp(mean), None
    from scipy.special import stdtrit  # the quantile of t without the half second that importing scipy.stats takes

    rounds = len(differences)
    half = float(stdtrit(rounds - 1, 0.975) * differences.std(ddof=1)) / math.sqrt(rounds)
    return math.exp(mean), (math.exp(mean - half), math.exp(mean + half))
