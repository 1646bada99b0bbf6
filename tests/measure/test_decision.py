"""Decisions against scipy's signed-rank test, enumeration, and simulated gates."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from kdc.measure.decision import LOOKS, decide, judge, judge_in_looks

SLOWER = math.log(1.05)


def test_bounds_invert_the_signed_rank_test() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.03, 16)
    judged = judge(differences, 0.05)
    low, high = math.log1p(judged.low), math.log1p(judged.high)
    for bound, side in ((low, "greater"), (high, "less")):
        inwards = 1e-6 if side == "greater" else -1e-6
        assert wilcoxon(differences - (bound - inwards), alternative=side, method="exact").pvalue <= 0.05
        assert wilcoxon(differences - (bound + inwards), alternative=side, method="exact").pvalue > 0.05


@pytest.mark.parametrize(("rounds", "confidence"), [(5, 0.95), (8, 0.95), (8, 1 - 0.05 / 3), (10, 0.99)])
def test_as_many_averages_lie_outside_as_enumeration_allows(rounds: int, confidence: float) -> None:
    sums = [sum(ranks) for k in range(rounds + 1) for ranks in itertools.combinations(range(1, rounds + 1), k)]
    outside = max(k for k in range(len(sums)) if np.mean(np.array(sums) <= k) <= 1 - confidence)
    differences = np.random.default_rng(1).normal(size=rounds) / 10
    walsh = sorted((a + b) / 2 for i, a in enumerate(differences) for b in differences[i:])
    judged = judge(differences, 0.05, confidence=confidence)
    assert judged.low == pytest.approx(math.expm1(walsh[outside]))
    assert judged.high == pytest.approx(math.expm1(walsh[-1 - outside]))
    assert judged.estimate == pytest.approx(math.expm1(np.median(walsh)))


def test_too_few_rounds_decide_nothing() -> None:
    judged = judge(np.full(4, 0.5), 0.05)
    assert (judged.outcome, judged.low, judged.high) == ("inconclusive", -1.0, math.inf)
    assert judge(np.full(5, 0.5), 0.05).outcome == "fail"


def test_differences_without_variance_have_a_bound() -> None:
    judged = judge(np.zeros(8), 0.05)
    assert (judged.outcome, judged.estimate, judged.low, judged.high) == ("pass", 0.0, 0.0, 0.0)
    assert judge(np.full(8, SLOWER), 0.04).outcome == "fail"


@pytest.mark.parametrize("differences", [[], [0.1, math.nan], [math.inf]])
def test_no_numbers_no_decision(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        judge(np.array(differences), 0.05)


def test_one_burst_does_not_widen_the_bounds() -> None:
    calm = np.random.default_rng(2).normal(0, 0.01, 16)
    burst = np.append(calm[:-1], 3.0)
    assert judge(burst, 0.05).outcome == "pass"
    assert judge(burst, 0.05).high < judge(calm, 0.05).high + 0.02


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.06, 0.2, "fail"), (-0.1, 0.05, "pass"), (0.05, 0.06, "inconclusive"), (-1, 1, "inconclusive")],
)
def test_what_bounds_say(low: float, high: float, outcome: str) -> None:
    assert decide(low, high, 0.05) == outcome


def test_looks_end_with_the_first_that_is_conclusive() -> None:
    seen = []

    def first(rounds: int) -> np.ndarray:
        seen.append(rounds)
        return np.resize([SLOWER - 0.03, SLOWER + 0.03], rounds) if rounds < 32 else np.zeros(rounds)

    assert judge_in_looks(first, 0.05).outcome == "pass"
    assert tuple(seen) == LOOKS
    seen.clear()
    assert judge_in_looks(lambda rounds: seen.append(rounds) or np.ones(rounds), 0.05).outcome == "fail"
    assert seen == [8]


def _rates(slowdown: float, noise: float, gates: int = 1500) -> dict[str, float]:
    random = np.random.default_rng(3)
    outcomes = []
    for _ in range(gates):
        # Now and then a burst hits one process of a round.
        bursts = (random.random(32) < 0.05) * random.choice([-1, 1], 32) * 0.3
        differences = math.log1p(slowdown) + random.normal(0, noise, 32) + bursts
        outcomes.append(judge_in_looks(lambda rounds, d=differences: d[:rounds], 0.05).outcome)
    return {outcome: outcomes.count(outcome) / gates for outcome in ("pass", "fail", "inconclusive")}


def test_errors_of_all_looks_together_stay_within_five_percent() -> None:
    assert _rates(0.0, 0.02)["fail"] == 0
    at_the_margin = _rates(0.05, 0.02)
    assert at_the_margin["fail"] <= 0.05
    assert at_the_margin["pass"] <= 0.05


def test_real_slowdowns_are_caught() -> None:
    assert _rates(0.10, 0.03)["fail"] >= 0.95
    assert _rates(0.25, 0.10)["fail"] >= 0.95
    assert _rates(0.0, 0.03)["pass"] >= 0.95
