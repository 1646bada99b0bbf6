import time

import numpy as np
import pytest
from scipy import stats

from kdc.data.examples import Examples
from kdc.measure.bootstrap import percentile_interval, resampled
from kdc.tasks.base import Task
from kdc.tasks.text_classification import TextClassification


def mean_of(values, **settings):
    return resampled(lambda draws: {"mean": values[draws].mean(axis=1)}, len(values), **settings)


def test_interval_agrees_with_scipys_percentile_method():
    hits = (np.random.default_rng(3).random(400) < 0.8).astype(float)
    for confidence in (0.9, 0.95):
        found = percentile_interval(mean_of(hits, resamples=4000)["mean"], confidence=confidence)
        reference = stats.bootstrap(
            (hits,), np.mean, n_resamples=4000, method="percentile", confidence_level=confidence, rng=0
        ).confidence_interval
        assert found == pytest.approx((reference.low, reference.high), abs=0.005)


def test_it_repeats_itself_and_needs_two_rows():
    values = np.random.default_rng(4).random(50)
    first, second = (mean_of(values)["mean"] for _ in range(2))
    assert np.array_equal(first, second)
    assert len(first) == 1000
    assert not np.array_equal(first, mean_of(values, seed=1)["mean"])
    assert mean_of(values[:1]) == {}


def test_two_variants_see_the_same_rows_in_every_draw():
    values = np.random.default_rng(4).random(50)
    assert mean_of(values + 1)["mean"] - mean_of(values)["mean"] == pytest.approx(np.ones(1000))


def test_what_is_not_defined_in_every_resample_has_no_interval():
    assert percentile_interval(np.array([0.1, np.nan, 0.3])) is None
    assert percentile_interval(None) is None


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
    resampled(lambda draws: TextClassification().rescore(outputs, examples, draws), 10_000)
    assert time.process_time() - started < 4
