"""Paired tests and intervals against SciPy, statsmodels and simulation: p values and intervals must hold their word."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from kdc.data.examples import Examples
from kdc.measure.bootstrap import resampled
from kdc.measure.paired import hits_difference, holm, mcnemar, proportion_difference, resampled_difference
from kdc.tasks.text_classification import TextClassification

PAIRS = [(0, 0), (1, 0), (0, 5), (3, 3), (12, 4), (4, 12), (107, 60), (900, 1000)]


@pytest.mark.parametrize(("lost", "won"), PAIRS)
def test_mcnemar_is_scipys_binomial_test_and_statsmodels_exact_one(lost, won):
    if lost + won:
        assert mcnemar(lost, won) == pytest.approx(stats.binomtest(lost, lost + won, 0.5).pvalue)
    assert mcnemar(lost, won) == pytest.approx(reference_mcnemar([[50, lost], [won, 50]], exact=True).pvalue)


def test_proportion_difference_by_hand():
    # n = 98, 8 lost and 3 won, half a row more of each: (3.5 - 8.5) / 100 +- z sqrt((0.035 + 0.085 - 0.0025) / 100)
    low, high = proportion_difference(8, 3, 98)
    half = 1.9599639845 * math.sqrt((0.12 - 0.0025) / 100)
    assert (low, high) == pytest.approx((-0.05 - half, -0.05 + half))
    narrower = proportion_difference(8, 3, 98, confidence=0.9)
    assert narrower == pytest.approx((-0.05 - half * 1.6448536 / 1.9599640, -0.05 + half * 1.6448536 / 1.9599640))


@pytest.mark.parametrize(("lost", "won", "rows"), [(0, 0, 2), (2, 0, 2), (0, 3, 3), (0, 0, 1000), (10, 0, 10)])
def test_extreme_tables_have_an_interval_within_bounds_that_holds_the_estimate(lost, won, rows):
    low, high = proportion_difference(lost, won, rows)
    assert -1 <= low <= (won - lost) / rows <= high <= 1
    assert low < high


def test_one_row_has_no_interval():
    assert proportion_difference(1, 0, 1) is None
    difference = hits_difference(np.array([0.0]), np.array([1.0]))
    assert (difference.value, difference.ci95, difference.p) == (-1.0, None, 1.0)


@pytest.mark.parametrize(
    ("rows", "lost", "won"),
    [(1821, 0.035, 0.024), (1821, 0.005, 0.003), (200, 0.1, 0.05), (60, 0.15, 0.15), (360, 0.02, 0.01), (50, 0.3, 0.1)],
)
def test_interval_of_accuracies_covers_the_truth_in_95_percent_of_1000_test_sets(rows, lost, won):
    tables = np.random.default_rng(0).multinomial(rows, [lost, won, 1 - lost - won], size=1000)
    intervals = [proportion_difference(int(b), int(c), rows) for b, c, _ in tables]
    assert 0.93 <= np.mean([low <= won - lost <= high for low, high in intervals]) <= 0.97


@pytest.mark.parametrize(("rows", "change"), [(1000, 0.002), (30, 0.05)])
def test_interval_of_accuracies_covers_no_less_where_hardly_a_row_changed(rows, change):
    tables = np.random.default_rng(5).multinomial(rows, [change, change, 1 - 2 * change], size=1000)
    intervals = [proportion_difference(int(b), int(c), rows) for b, c, _ in tables]
    assert np.mean([low <= 0 <= high for low, high in intervals]) >= 0.95


def test_mcnemar_raises_no_more_false_alarms_than_it_says():
    tables = np.random.default_rng(1).multinomial(500, [0.05, 0.05, 0.9], size=1000)
    assert np.mean([mcnemar(int(b), int(c)) < 0.05 for b, c, _ in tables]) <= 0.05


def test_hits_difference_of_right_and_wrong_rows():
    own, other = np.array([1, 1, 0, 0, 0, 1.0]), np.array([1, 1, 1, 1, 0, 0.0])
    difference = hits_difference(own, other)
    assert difference.test == "McNemar, exact"
    assert difference.value == pytest.approx(-1 / 6)
    assert difference.p == mcnemar(2, 1)
    assert difference.ci95 == proportion_difference(2, 1, 6)


def test_hits_difference_of_rows_that_are_partly_right():
    generator = np.random.default_rng(2)
    own, other = generator.uniform(size=(2, 300))
    difference = hits_difference(own, other)
    reference = stats.ttest_rel(own, other)
    assert difference.test == "paired bootstrap"
    assert difference.value == pytest.approx((own - other).mean())
    assert difference.p == pytest.approx(reference.pvalue, abs=0.03)
    interval = reference.confidence_interval(0.95)
    assert difference.ci95 == pytest.approx((interval.low, interval.high), abs=0.01)


def test_bootstrap_of_partly_right_rows_covers_the_truth_in_95_percent_of_1000_test_sets():
    """Half of the rows unchanged, the others skewed, as a quality by tokens changes; p keeps its level too."""
    generator = np.random.default_rng(3)
    changes = generator.exponential(0.2, size=(1000, 150)) * (generator.random((1000, 150)) < 0.5)
    found = [hits_difference(np.clip(0.1 + change, 0, None), np.full(150, 0.1)) for change in changes]
    assert 0.93 <= np.mean([d.ci95[0] <= 0.1 <= d.ci95[1] for d in found]) <= 0.97
    signed = changes * generator.choice([-1, 1], size=changes.shape)
    false = [hits_difference(np.full(150, 9.0) + change, np.full(150, 9.0)).p < 0.05 for change in signed]
    assert 0.03 <= np.mean(false) <= 0.07


def test_bootstrap_of_f1_covers_the_truth_in_95_percent_of_1000_test_sets():
    """Two variants with correlated mistakes, 200 rows, F1 through the task's own rescoring of all draws at once."""
    task, names = TextClassification(), ("no", "yes")
    cells = np.array([(label, own, other) for label in (0, 1) for own in (0, 1) for other in (0, 1)])
    shares = np.array([0.42, 0.05, 0.02, 0.06, 0.05, 0.03, 0.06, 0.31])  # by label, own answer, other's answer

    def f1(answers):
        both = shares[(answers == 1) & (cells[:, 0] == 1)].sum()
        return 2 * both / (shares[answers == 1].sum() + shares[cells[:, 0] == 1].sum())

    def resampled_f1(labels, answers):
        rows, outputs = Examples({"label": labels}, names), {"logits": np.eye(2)[answers]}
        return resampled(lambda draws: task.rescore(outputs, rows, draws), len(labels), resamples=300)["f1"]

    truth = f1(cells[:, 1]) - f1(cells[:, 2])
    covered, generator = [], np.random.default_rng(4)
    for _ in range(1000):
        labels, own, other = cells[generator.choice(8, size=200, p=shares)].T
        low, high = resampled_difference(0.0, resampled_f1(labels, own) - resampled_f1(labels, other)).ci95
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_identical_variants_differ_by_nothing_for_certain():
    difference = resampled_difference(0.0, np.zeros(1000))
    assert (difference.ci95, difference.p) == ((0.0, 0.0), 1.0)
    same = np.array([1.0, 0.0, 1.0])
    assert hits_difference(same, same).p == 1.0
    assert hits_difference(same, same).value == 0.0


@pytest.mark.parametrize("differences", [None, np.full(1000, -0.5), np.array([0.1, np.nan])])
def test_where_the_rows_do_not_tell_the_spread_there_is_neither_interval_nor_p(differences):
    difference = resampled_difference(-0.5, differences)
    assert (difference.value, difference.ci95, difference.p) == (-0.5, None, None)


def test_holm_is_statsmodels():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.5, 0.04, 1.0]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([]) == []
