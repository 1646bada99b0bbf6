"""What the teacher was worth: the interval against other ways to it and against the truth, and what it is called."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from kdc.data.examples import Examples
from kdc.measure.comparison import metric_difference
from kdc.measure.gain import crossed_interval, gain, verdict
from kdc.measure.scores import Scores, score_rows
from kdc.tasks.text_classification import TextClassification

TASK, ROWS = TextClassification(), 300
LABELS = np.random.default_rng(0).integers(0, 2, size=ROWS)
EXAMPLES = Examples({"label": LABELS}, ("no", "yes"))


def scored(right: np.ndarray) -> Scores:
    """A training that answers these rows right, `[rows]`."""
    return score_rows(TASK, {"logits": np.eye(2)[np.where(right, LABELS, 1 - LABELS)]}, EXAMPLES)


def arm(accuracies: list[float], seed: int) -> list[Scores]:
    """A training a seed; the rows are as hard for all of them."""
    hard = np.random.default_rng(0).random(ROWS)
    noise = np.random.default_rng(seed)
    return [scored(hard + 0.05 * noise.normal(size=ROWS) < accuracy) for accuracy in accuracies]


def drawn(differences: np.ndarray, *, draws: int, seed: int = 0) -> np.ndarray:
    """Means `[..., draws]` of differences `[..., rows]` on rows drawn with replacement, by how often each is drawn."""
    rows = differences.shape[-1]
    counts = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=draws)
    return differences @ counts.T / rows


def half(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return (interval[1] - interval[0]) / 2


def test_where_rows_do_not_matter_it_is_students_t_over_the_seeds() -> None:
    values = np.array([0.013, 0.021, 0.008])
    found = crossed_interval(values, np.tile(values[:, None], 50), rows=10_000)
    assert found == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))


def test_where_seeds_do_not_matter_it_is_students_t_over_the_rows() -> None:
    difference = np.random.default_rng(1).normal(0.2, 1.0, size=400)
    found = crossed_interval(np.full(3, difference.mean()), np.tile(drawn(difference, draws=4000), (3, 1)), rows=400)
    assert found == pytest.approx(stats.ttest_1samp(difference, 0).confidence_interval(0.95), abs=0.005)


def test_it_is_that_of_the_analysis_of_variance_of_seeds_by_rows() -> None:
    """Mean squares of a two-way layout with one cell each (Searle, Casella and McCulloch 1992, section 4.3)."""
    generator, seeds, rows = np.random.default_rng(2), 4, 500
    cells = 0.1 * generator.normal(size=(seeds, 1)) + generator.normal(size=rows) + generator.normal(size=(seeds, rows))
    by_seed, by_row, mean = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    of_seeds = rows * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    of_rows = seeds * ((by_row - mean) ** 2).sum() / (rows - 1)
    left = ((cells - by_seed[:, None] - by_row + mean) ** 2).sum() / ((seeds - 1) * (rows - 1))
    alike = (of_rows - left) / (seeds * rows)
    t = [stats.t.ppf(0.975, count - 1) for count in (rows, seeds)]
    wanted = math.sqrt(t[0] ** 2 * alike + t[1] ** 2 * of_seeds / (seeds * rows))
    found = crossed_interval(by_seed, drawn(cells, draws=20_000), rows=rows)
    assert half(found) == pytest.approx(wanted, rel=0.01)


def test_it_is_made_of_what_every_resample_of_seeds_and_rows_tells() -> None:
    """All 9 ways to draw two of three seeds and all 256 to draw four of four rows: nothing is left to chance."""
    cells = np.array([[1.0, 1.0, 0.0, -1.0], [1.0, 0.0, 0.0, -1.0], [1.0, 1.0, 1.0, -1.0]])
    picks, draws = np.array(list(product(range(3), repeat=2))), np.array(list(product(range(4), repeat=4)))
    by_draw = cells[:, draws].mean(axis=2)  # [seeds, 256]
    of_seeds = cells.mean(axis=1)[picks].mean(axis=1).var()
    of_rows = by_draw.mean(axis=0).var()
    crosswise = by_draw[picks].mean(axis=1).var()
    single = crosswise - of_seeds - of_rows
    t = [stats.t.ppf(0.975, count - 1) for count in (4, 3)]
    wanted = math.sqrt(t[0] ** 2 * (of_rows - single) + t[1] ** 2 * of_seeds)
    assert of_rows > single > 0
    assert half(crossed_interval(cells.mean(axis=1), by_draw, rows=4)) == pytest.approx(wanted, rel=0.003)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.06, 0.2])
def test_it_covers_the_truth_in_95_percent_of_600_experiments(seeds: int, spread: float) -> None:
    """Two arms by a probit model: rows differ in how hard they are and in what the teacher gives them, seeds by
    `spread`, and every training by itself. The truth is for all seeds and all rows."""
    generator, experiments, easy, worth, gives, noise = np.random.default_rng(3), 600, 1.2, 0.25, 0.3, 0.4

    def trained(mean: float, rows: np.ndarray) -> np.ndarray:
        each = spread * generator.normal(size=(experiments, seeds, 1)) + rows[:, None]
        return mean + each + noise * generator.normal(size=(experiments, seeds, ROWS)) > 0

    hard = generator.normal(size=(experiments, ROWS))
    student = trained(easy + worth, hard + gives * generator.normal(size=hard.shape))
    differences = student.astype(float) - trained(easy, hard)
    own, other = (1 + spread**2 + noise**2 + more for more in (gives**2, 0.0))
    truth = stats.norm.cdf((easy + worth) / math.sqrt(own)) - stats.norm.cdf(easy / math.sqrt(other))
    resamples = drawn(differences, draws=300)
    intervals = [crossed_interval(d.mean(axis=1), r, rows=ROWS) for d, r in zip(differences, resamples, strict=True)]
    assert 0.92 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.98


def test_seeds_that_agree_by_chance_make_it_no_narrower_than_rows_alone() -> None:
    difference = np.random.default_rng(4).normal(size=(3, 400))
    difference -= difference.mean(axis=1, keepdims=True)
    resampled = drawn(difference, draws=2000)
    found = crossed_interval(np.zeros(3), resampled, rows=400)
    assert half(found) >= 1.96 * resampled.mean(axis=0).std()


def test_what_tells_no_spread_is_certain_only_where_nothing_differs() -> None:
    assert crossed_interval(np.zeros(3), np.zeros((3, 9)), rows=9) == (0.0, 0.0)
    assert crossed_interval(np.ones(3), np.ones((3, 9)), rows=9) is None
    assert crossed_interval(np.ones(3), np.array([[np.nan, 1.0]] * 3), rows=9) is None
    assert crossed_interval(np.zeros(2), np.zeros((2, 1)), rows=1) is None


def test_a_gain_is_paired_by_seed_and_by_row() -> None:
    student, control = arm([0.90, 0.88, 0.91], seed=1), arm([0.80, 0.79, 0.82], seed=2)
    found = gain(TASK, "accuracy", student, control)
    differences = np.array([own.hits - other.hits for own, other in zip(student, control, strict=True)])
    assert found.value == pytest.approx(differences.mean())
    assert (found.seeds, found.n, found.resampled) == (3, ROWS, ["seeds", "examples"])
    wanted = crossed_interval(differences.mean(axis=1), drawn(differences, draws=20_000), rows=ROWS)
    assert found.ci95 == pytest.approx(wanted, abs=0.002)
    assert found.verdict == "gain"
    assert gain(TASK, "accuracy", control, student).verdict == "harm"
    shuffled = gain(TASK, "accuracy", student, [control[i] for i in (2, 0, 1)])
    assert shuffled.value == pytest.approx(found.value)
    assert half(shuffled.ci95) != pytest.approx(half(found.ci95))


def test_metrics_that_are_no_means_over_rows_have_a_gain_too() -> None:
    student, control = arm([0.90, 0.88, 0.91], seed=1), arm([0.80, 0.79, 0.82], seed=2)
    found = gain(TASK, "f1", student, control)
    pairs = zip(student, control, strict=True)
    assert found.value == pytest.approx(np.mean([own.values["f1"] - other.values["f1"] for own, other in pairs]))
    assert found.ci95 is not None
    assert 0 < found.ci95[0] < found.value < found.ci95[1]


def test_a_teacher_that_tells_nothing_is_worth_nothing_within_noise() -> None:
    found = gain(TASK, "accuracy", arm([0.85, 0.84, 0.86], seed=1), arm([0.85, 0.86, 0.84], seed=2))
    assert found.verdict == "no gain within noise"
    same = arm([0.85, 0.84, 0.86], seed=1)
    assert gain(TASK, "accuracy", same, same).ci95 == (0.0, 0.0)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_one_seed_is_compared_on_rows_alone(metric: str) -> None:
    (student,), (control,) = arm([0.9], seed=1), arm([0.8], seed=2)
    found = gain(TASK, metric, [student], [control])
    assert found.ci95 == metric_difference(TASK, metric, student, control).ci95
    assert (found.seeds, found.resampled) == (1, ["examples"])


def test_a_metric_that_rows_do_not_define_has_no_interval() -> None:
    student, control = arm([0.9, 0.88], seed=1), arm([0.8, 0.79], seed=2)
    del student[1].resampled["mcc"]
    found = gain(TASK, "mcc", student, control)
    assert (found.ci95, found.verdict) == (None, "no interval")


def test_every_seed_needs_its_partner() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gain(TASK, "accuracy", arm([0.9, 0.9], seed=1), arm([0.8], seed=2))


@pytest.mark.parametrize(
    ("ci95", "higher", "said"),
    [
        ((0.001, 0.02), True, "gain"),
        ((0.0, 0.02), True, "no gain within noise"),
        ((-0.02, 0.01), True, "no gain within noise"),
        ((-0.02, -0.001), True, "harm"),
        ((-2.0, -1.0), False, "gain"),
        ((1.0, 2.0), False, "harm"),
        ((-1.0, 2.0), False, "no gain within noise"),
        (None, True, "no interval"),
    ],
)
def test_the_interval_decides(ci95: tuple[float, float] | None, higher: bool, said: str) -> None:
    assert verdict(ci95, higher_is_better=higher) == said
