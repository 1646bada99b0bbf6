import math

import numpy as np
import pytest
from scipy import stats

from kdc.measure.statistics import paired_ratio, percentile


def test_percentiles_are_numpys_and_need_enough_samples():
    samples = np.random.default_rng(0).exponential(size=700).tolist()
    assert percentile(samples, 99) == pytest.approx(np.percentile(samples, 99))
    assert percentile(samples[:64], 90) == pytest.approx(np.percentile(samples[:64], 90))
    assert percentile(samples[:63], 90) is None
    assert percentile(samples[:661], 99) is None


def test_ratio_by_hand_and_without_interval_from_two_rounds():
    ratio, interval = paired_ratio([8.0, 2.0], [2.0, 2.0])
    assert ratio == pytest.approx(2.0)  # exp((ln 4 + ln 1) / 2)
    assert interval is None


def test_interval_of_few_rounds_is_scipys_paired_t_interval_of_the_logarithms():
    generator = np.random.default_rng(1)
    other, own = generator.uniform(8, 12, size=5), generator.uniform(1, 2, size=5)
    ratio, interval = paired_ratio(other, own)
    reference = stats.ttest_rel(np.log(other), np.log(own)).confidence_interval(0.95)
    assert interval == pytest.approx((math.exp(reference.low), math.exp(reference.high)))
    assert interval[0] < ratio < interval[1]


def test_interval_of_more_rounds_holds_the_ratios_that_wilcoxons_test_does_not_reject():
    generator = np.random.default_rng(1)
    other, own = generator.uniform(8, 12, size=9), generator.uniform(1, 2, size=9)
    ratio, (low, high) = paired_ratio(other, own)

    def p(supposed: float) -> float:
        return stats.wilcoxon(np.log(other / own) - math.log(supposed), method="exact").pvalue

    assert max(p(low * 0.999), p(high * 1.001)) <= 0.05 < min(p(low * 1.001), p(high * 0.999))
    walsh = [math.log(a * b) / 2 for i, a in enumerate(other / own) for b in (other / own)[: i + 1]]
    assert ratio == pytest.approx(math.exp(np.median(walsh)))


def test_one_stalled_process_moves_a_ratio_little():
    ratio, (low, high) = paired_ratio([2.0, 2.02, 1.98, 2.01, 2.0, 2.03, 200.0, 2.0], np.ones(8))
    assert ratio == pytest.approx(2.0, rel=0.02)
    assert low > 1.97
    assert high < 21  # a mean with its t interval: 3.6 (0.9 to 13.8)


def test_ratio_of_equal_rounds_has_an_interval_of_no_width():
    ratio, interval = paired_ratio([4.0, 4.0, 4.0], [2.0, 2.0, 2.0])
    assert (ratio, interval) == (pytest.approx(2.0), pytest.approx((2.0, 2.0)))


@pytest.mark.parametrize("rounds", [5, 7, 8])
def test_ratio_interval_covers_the_true_ratio_in_95_percent_of_runs_despite_drift(rounds: int):
    generator = np.random.default_rng(2)
    drift = np.exp(generator.normal(0, 0.3, size=(1000, rounds)))  # hits both variants of a round
    noise = np.exp(generator.normal(0, 0.03, size=(2, 1000, rounds)))
    intervals = [paired_ratio(3 * d * a, d * b)[1] for d, a, b in zip(drift, *noise, strict=True)]
    assert 0.93 <= np.mean([low <= 3 <= high for low, high in intervals]) <= 0.97
