"""Gate runs put together from recorded rounds: what share of them passes and fails, and how sure that share is.

Pure functions of numbers; `noise_study` has the rounds.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy import stats

from kdc.measure.decision import LOOKS, judge_in_looks

BLOCK = 8
"""Rounds that are drawn together: neighbours have the machine's mood in common."""
RESAMPLES, RUNS_EACH = 200, 500
OUTCOMES = ("fail", "pass", "inconclusive")


def gate_runs(
    differences: np.ndarray, runs: int, margin: float, *, resamples: int = RESAMPLES, runs_each: int = RUNS_EACH
) -> dict[str, Any]:
    """Shares of the outcomes of `runs` gate runs, drawn from the log ratios `differences`, `[rounds]`, in blocks.

    Two intervals of 95% stand beside each share, and `ci95` spans both. `ci95_runs` (Clopper and Pearson 1934) holds
    what is uncertain because no more runs were drawn: more of them narrow it at will. `ci95_rounds` holds what is
    uncertain because no more rounds were timed: the percentiles of the shares in `resamples` block bootstraps of the
    rounds themselves (Künsch 1989), of `runs_each` gate runs each.
    """
    random = np.random.default_rng(0)
    counts, rounds_used = _decided(differences, runs, margin, random)
    again = [_decided(_resampled(differences, random), runs_each, margin, random)[0] for _ in range(resamples)]
    shares = {}
    for outcome in OUTCOMES:
        low, high = np.percentile([each[outcome] / runs_each for each in again], [2.5, 97.5])
        by_rounds, by_runs = (float(low), float(high)), clopper_pearson(counts[outcome], runs)
        shares[outcome] = {
            "rate": counts[outcome] / runs,
            "ci95": (min(by_rounds[0], by_runs[0]), max(by_rounds[1], by_runs[1])),
            "ci95_rounds": by_rounds,
            "ci95_runs": by_runs,
        }
    return {"runs": runs, "resamples": resamples, "runs_each": runs_each, "rounds_used": rounds_used, **shares}


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """Exact 95% interval of a binomial share (Clopper and Pearson 1934)."""
    low = stats.beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def _decided(
    differences: np.ndarray, runs: int, margin: float, random: np.random.Generator
) -> tuple[Counter[str], float]:
    """How many of `runs` gate runs came to each outcome, and the rounds that they looked at on average."""
    outcomes: Counter[str] = Counter()
    looked = 0
    for drawn in _blocks(len(differences), random, (runs, -(-LOOKS[-1] // BLOCK))).reshape(runs, -1):
        asked = 0

        def first(count: int, drawn: np.ndarray = drawn) -> np.ndarray:
            nonlocal asked
            asked = count
            return differences[drawn[:count]]

        outcomes[judge_in_looks(first, margin).outcome] += 1
        looked += asked
    return outcomes, looked / runs


def _resampled(differences: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many rounds again, in blocks that stay whole."""
    rounds = len(differences)
    return differences[_blocks(rounds, random, (-(-rounds // BLOCK),)).reshape(-1)[:rounds]]


def _blocks(rounds: int, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The rounds of blocks that start anywhere, `[*shape, BLOCK]`."""
    starts = random.integers(0, rounds - BLOCK + 1, size=shape)
    return starts[..., None] + np.arange(BLOCK)
