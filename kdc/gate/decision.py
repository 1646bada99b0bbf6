"""Whether something got worse by more than a margin: pass, fail, or not enough evidence yet. Pure functions of numbers.

Where the differences come from (processes, rows) is the business of `latency` and `quality`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

Outcome = Literal["pass", "fail", "inconclusive"]

LOOKS = (8, 16, 32)
"""Rounds after which a time rule is looked at. Every look could raise a false alarm, so they share the allowed error
equally (Bonferroni): each is taken at 1 - 5%/3. Eight rounds are the fewest whose bounds leave out a stray round, and
doubling keeps the looks few."""


@dataclass(frozen=True)
class Judgement:
    """How many times slower, less one (0.1 is 10% slower), with its one-sided bounds, and what follows from them."""

    outcome: Outcome
    estimate: float
    low: float
    high: float


def decide(low: float, high: float, margin: float) -> Outcome:
    """Non-inferiority (ICH E9, section 3.3.2): what one-sided bounds of a harm say about the margin it may reach."""
    if low > margin:
        return "fail"
    return "pass" if high <= margin else "inconclusive"


def judge(differences: np.ndarray, margin: float, *, confidence: float = 0.95) -> Judgement:
    """One look at paired differences d_r = ln(candidate_r / baseline_r), `[rounds]`; `margin` 0.05 allows 5% slower.

    The estimate is the median of the Walsh averages (d_i + d_j) / 2, i <= j, and each bound an order statistic of them:
    Hodges and Lehmann 1963, and the interval that inverts Wilcoxon's signed-rank test (Hollander, Wolfe and Chicken
    2014, section 3.3). Swapping the two artifacts turns the sign of d_r, so differences of equal artifacts are
    symmetric whatever the machine does, which is all that these bounds assume; and a burst that hits one process of
    one round moves them little, where it would widen those of a mean by an order of magnitude.
    Rounds too few for `confidence` have infinite bounds. Each bound holds with at least that confidence.
    """
    if not np.isfinite(differences).all() or not len(differences):
        raise ValueError(f"differences must be finite and at least one: {differences}")
    first, second = _pairs(len(differences))
    walsh = np.sort(differences[first] + differences[second]) / 2
    outside = _outside(len(differences), 1 - confidence)
    low, high = (-math.inf, math.inf) if outside is None else (float(walsh[outside]), float(walsh[-1 - outside]))
    estimate = float(np.median(walsh))
    return Judgement(decide(low, high, math.log1p(margin)), math.expm1(estimate), math.expm1(low), math.expm1(high))


def judge_in_looks(first: Callable[[int], np.ndarray], margin: float, *, confidence: float = 0.95) -> Judgement:
    """Judge after each of `LOOKS` until a look is conclusive; `first(n)` gives the first n differences.

    `confidence` is that of all looks together.
    """
    for rounds in LOOKS:
        judgement = judge(first(rounds), margin, confidence=1 - (1 - confidence) / len(LOOKS))
        if judgement.outcome != "inconclusive":
            break
    return judgement


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
