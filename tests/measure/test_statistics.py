import math
import time

import numpy as np
import pytest
from scipy import stats

from kdc.data.examples import Examples
from kdc.measure.statistics import bootstrap_intervals, paired_ratio, percentile
from kdc.tasks.base import Task
from kdc.tasks.text_classification import TextClassification


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


def test_ratio_interval_is_scipys_paired_t_interval_of_the_logarithms():
    generator = np.random.default_rng(1)
    other, own = generator.uniform(8, 12, size=6), generator.uniform(1, 2, size=6)
    ratio, interval = paired_ratio(other, own)
    reference = stats.ttest_rel(np.log(other), np.log(own)).confidence_interval(0.95)
    assert ratio == pytest.approx(stats.gmean(other / own))
    assert interval == pytest.approx((math.exp(reference.low), math.exp(reference.high)))


def test_ratio_of_equal_rounds_has_an_interval_of_no_width():
    ratio, interval = paired_ratio([4.0, 4.0, 4.0], [2.0, 2.0, 2.0])
    assert (ratio, interval) == (pytest.approx(2.0), pytest.approx((2.0, 2.0)))


def test_ratio_interval_covers_the_true_ratio_in_95_percent_of_runs_despite_drift():
    generator = np.random.default_rng(2)
    drift = np.exp(generator.normal(0, 0.3, size=(1000, 5)))  # hits both variants of a round
    noise = np.exp(generator.normal(0, 0.03, size=(2, 1000, 5)))
    intervals = [paired_ratio(3 * d * a, d * b)[1] for d, a, b in zip(drift, *noise, strict=True)]
    assert 0.93 <= np.mean([low <= 3 <= high for low, high in intervals]) <= 0.97


def test_bootstrap_agrees_with_scipys_percentile_method():
    hits = (np.random.default_rng(3).random(400) < 0.8).astype(float)
    found = bootstrap_intervals(lambda draws: {"mean": hits[draws].mean(axis=1)}, 400, resamples=4000)["mean"]
    reference = stats.bootstrap((hits,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert found == pytest.approx((reference.low, reference.high), abs=0.005)


def test_bootstrap_repeats_itself_and_needs_two_rows():
    values = np.random.default_rng(4).random(50)
    first, second = (bootstrap_intervals(lambda d: {"mean": values[d].mean(axis=1)}, 50) for _ in range(2))
    assert first == second
    assert bootstrap_intervals(lambda d: {"mean": values[d].mean(axis=1)}, 1) == {}


@pytest.mark.parametrize("classes", [2, 5])
def test_rescored_draws_equal_scores_of_the_selected_rows(classes):
    """The fast metrics of all draws at once against scikit-learn's, draw by draw, rare classes included."""
    generator = np.random.default_rng(5)
    labels = generator.choice(classes, size=60, p=[0.9, *[0.1 / (classes - 1)] * (classes - 1)])
    outputs = {"logits": np.eye(classes)[labels] + generator.normal(size=(60, classes))}
    examples = Examples({"label": labels}, tuple("abcde"[:classes]))
    draws = generator.integers(0, 60, size=(40, 8))
    task = TextClassification()
    fast, plain = task.rescore(outputs, examples, draws), Task.rescore(task, outputs, examples, draws)
    assert set(fast) == set(plain)
    for name, values in plain.items():
        assert fast[name] == pytest.approx(values), name


def test_intervals_of_ten_thousand_rows_are_quick():
    generator = np.random.default_rng(6)
    examples = Examples({"label": generator.integers(0, 77, size=10_000)}, tuple(str(i) for i in range(77)))
    outputs = {"logits": generator.normal(size=(10_000, 77))}
    started = time.process_time()
    bootstrap_intervals(lambda draws: TextClassification().rescore(outputs, examples, draws), 10_000)
    assert time.process_time() - started < 4
