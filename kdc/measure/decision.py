"""Whether something got worse by more than a margin: pass, fail, or not enough evidence yet. Pure functions of numbers.

Where the differences come from (processes, rows) is the business of others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdc.measure.statistics import signed_ranks

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

    Estimate and bounds are those of `signed_ranks`; each bound holds with at least `confidence`.
    """
    estimate, low, high = signed_ranks(differences, confidence=confidence)
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
