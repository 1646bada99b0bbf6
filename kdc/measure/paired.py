"""Two variants on the same rows: tests and intervals of their differences, and the correction for making many.

Pure functions of counts and arrays. A difference is always what one variant scores minus what the other scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from kdc.measure.bootstrap import percentile_interval, resampled
from kdc.measure.statistics import Interval
from kdc.record import Difference

MCNEMAR, BOOTSTRAP = "McNemar, exact", "paired bootstrap"
_STANDARD = NormalDist()


def mcnemar(lost: int, won: int) -> float:
    """Two-sided p of the exact form of McNemar's test (McNemar 1947): `lost` rows are wrong now and were right.

    Were there no difference, `lost` would be binomial, `lost + won` throws of a fair coin; p is twice the smaller tail.
    Without a row of either kind it is 1.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def proportion_difference(lost: int, won: int, rows: int, *, confidence: float = 0.95) -> Interval | None:
    """Interval of a difference of two paired proportions, estimated by `(won - lost) / rows`.

    Wald's with half a row added to each cell of the 2 x 2 table (Agresti and Min 2005), which covers as often as it
    says, or more often where fewer than ten rows changed; it has a width even where none did: rows that were not seen
    may. A single row has no interval.
    """
    if rows < 2:
        return None
    gained, given = (won + 0.5) / (rows + 2), (lost + 0.5) / (rows + 2)
    center = gained - given
    half = _quantile(confidence) * math.sqrt((gained + given - center**2) / (rows + 2))
    return max(-1.0, center - half), min(1.0, center + half)


def hits_difference(own: np.ndarray, other: np.ndarray) -> Difference:
    """Mean quality of the same rows, `[rows]` each: exact where rows are right or wrong, else by the bootstrap."""
    if is_binary(own) and is_binary(other):
        lost, won = int(np.sum(own < other)), int(np.sum(own > other))
        return Difference(
            value=(won - lost) / len(own),
            ci95=proportion_difference(lost, won, len(own)),
            p=mcnemar(lost, won),
            test=MCNEMAR,
        )
    change = own - other
    means = resampled(lambda draws: {"mean": change[draws].mean(axis=1)}, len(change)).get("mean")
    return resampled_difference(float(change.mean()), means)


def resampled_difference(value: float, differences: np.ndarray | None) -> Difference:
    """A difference of `value` by what the paired bootstrap made of it, `[resamples]`: own minus other, draw by draw.

    The interval is the percentile one. p is that of Wald's test with the bootstrap's standard error (Efron and
    Tibshirani 1993, chapters 6 and 12): counting resamples beyond zero cannot tell less than one in their number,
    which no correction for many tests would leave standing. Where all resamples are alike, rows say nothing of the
    spread: a difference of zero is certain as far as they go, any other has neither interval nor p.
    """
    if differences is None or not np.isfinite(differences).all():
        return Difference(value=value, test=BOOTSTRAP)
    error = float(differences.std(ddof=1))
    if error < 1e-12:
        same = abs(value) < 1e-12
        return Difference(value=value, ci95=(0.0, 0.0) if same else None, p=1.0 if same else None, test=BOOTSTRAP)
    p = 2 * _STANDARD.cdf(-abs(value) / error)
    return Difference(value=value, ci95=percentile_interval(differences), p=p, test=BOOTSTRAP)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order (Holm 1979): the family is wrong at most as often as one.

    The i-th smallest of m is multiplied by m - i + 1, and none may fall below the one before it.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def is_binary(hits: np.ndarray) -> bool:
    """Whether every row is right or wrong, and none in between."""
    return bool(np.isin(hits, (0.0, 1.0)).all())


def _quantile(confidence: float) -> float:
    return _STANDARD.inv_cdf((1 + confidence) / 2)
