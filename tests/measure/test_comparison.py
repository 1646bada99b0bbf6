"""One variant against another, by hand on eight rows, on rows that say nothing, and on as many as a real run has."""

import json
import time

import numpy as np
import pytest

from kdc.data.examples import Examples
from kdc.measure.bootstrap import resampled
from kdc.measure.comparison import compare
from kdc.measure.paired import holm, mcnemar
from kdc.measure.scores import score_rows
from kdc.measure.slices import cut
from kdc.tasks.text_classification import TextClassification
from tests import toys

TASK = TextClassification()


def rows_of(labels, names=("no", "yes")):
    return Examples({"text": [f"row {i}" for i in range(len(labels))], "label": np.array(labels)}, names)


def scored(guesses, rows):
    return score_rows(TASK, {"logits": np.eye(len(rows.labels), dtype=np.float32)[guesses]}, rows)


def compared(own, other, rows, task=TASK, columns=()):
    return compare(
        task, own, other, rows, cut(task, rows, columns), against="teacher.torch", role="teacher", flips=5, show=True
    )


EIGHT = rows_of([0, 0, 0, 0, 1, 1, 1, 1])
TEACHER = scored([0, 0, 0, 0, 1, 1, 1, 0], EIGHT)
STUDENT = scored([0, 0, 0, 1, 0, 0, 1, 1], EIGHT)


def test_by_hand():
    found = compared(STUDENT, TEACHER, EIGHT)
    assert (found.against, found.role) == ("teacher.torch", "teacher")
    assert found.churn.model_dump() == {"n": 8, "right_to_wrong": 3, "wrong_to_right": 1, "changed": 4}
    accuracy = found.metrics["accuracy"]
    assert (accuracy.value, accuracy.test, accuracy.p) == (-2 / 8, "McNemar, exact", mcnemar(3, 1))
    assert set(found.metrics) == set(STUDENT.values)
    f1 = found.metrics["f1"]
    assert f1.value == pytest.approx(STUDENT.values["f1"] - TEACHER.values["f1"])
    assert f1.test == "paired bootstrap"
    assert f1.ci95[0] < f1.value < f1.ci95[1]
    no, yes = (group for group in found.groups if group.by == "class")
    assert (no.group, no.n, no.value, no.other, no.difference.value) == ("no", 4, 3 / 4, 1.0, -1 / 4)
    assert (yes.group, yes.n, yes.value, yes.other, yes.difference.p) == ("yes", 4, 2 / 4, 3 / 4, mcnemar(2, 1))
    assert {flip.row for flip in found.flips} == {3, 4, 5}


def test_p_values_are_corrected_for_all_tests_and_it_is_said():
    found = compared(STUDENT, TEACHER, EIGHT)
    tests = [*found.metrics.values(), *(group.difference for group in found.groups)]
    assert found.correction == f"Holm over {len(tests)} tests"
    assert [test.p_adjusted for test in tests] == holm([test.p for test in tests])


def test_the_interval_of_a_difference_is_paired():
    """Two variants that are wrong on the same rows differ by less than either is uncertain by."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, size=400)
    teacher = np.where(generator.random(400) < 0.2, 1 - labels, labels)
    student = np.where(generator.random(400) < 0.02, 1 - teacher, teacher)
    rows = rows_of(labels)
    own, other = scored(student, rows), scored(teacher, rows)
    low, high = compared(own, other, rows).metrics["f1"].ci95
    alone = np.quantile(resampled(lambda d: TASK.rescore(own.outputs, rows, d), 400)["f1"], [0.025, 0.975])
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_the_same_answers_differ_in_nothing():
    found = compared(TEACHER, TEACHER, EIGHT)
    assert found.churn.changed == 0
    assert found.flips == []
    for difference in [*found.metrics.values(), *(group.difference for group in found.groups)]:
        assert (difference.value, difference.p, difference.p_adjusted) == (0.0, 1.0, 1.0)
    assert found.metrics["f1"].ci95 == (0.0, 0.0)


@pytest.mark.parametrize("case", ["one row", "all right to all wrong", "one class"])
def test_rows_that_say_little_leave_a_record_without_nan(case):
    labels, own, other = {
        "one row": ([0], [1], [0]),
        "all right to all wrong": ([0, 1] * 4, [1, 0] * 4, [0, 1] * 4),
        "one class": ([0] * 8, [0] * 7 + [1], [0] * 8),
    }[case]
    rows = rows_of(labels, ("no", "yes", "never"))
    found = compared(scored(own, rows), scored(other, rows), rows)
    json.loads(found.model_dump_json(), parse_constant=pytest.fail)
    assert found.metrics["accuracy"].value < 0
    assert all(group.n for group in found.groups)
    if case == "one row":
        assert (found.metrics["accuracy"].ci95, found.metrics["accuracy"].p) == (None, 1.0)
        assert (found.metrics["f1_macro"].ci95, found.metrics["f1_macro"].p) == (None, None)
    if case == "all right to all wrong":
        assert found.metrics["f1_macro"].ci95 is None  # all resamples say -1, so the rows do not tell the spread


def test_tasks_without_classes_or_a_hit_rate_are_compared_by_the_bootstrap():
    task = toys.ToyTagging()
    generator = np.random.default_rng(1)
    tags = generator.integers(0, 2, size=(60, 4))
    rows = Examples({"text": ["w " * (i % 7) + "w" for i in range(60)], "tags": tags.tolist()}, ("O", "B"))
    wrong = np.where(generator.random(tags.shape) < 0.3, 1 - tags, tags)
    own, other = (score_rows(task, {"logits": np.eye(2)[guess]}, rows) for guess in (wrong, tags))
    found = compared(own, other, rows, task=task)
    accuracy = found.metrics["accuracy"]
    assert accuracy.test == "paired bootstrap"
    assert accuracy.value == pytest.approx((wrong == tags).mean() - 1)
    assert accuracy.ci95[0] < accuracy.value < accuracy.ci95[1] < 0
    assert {(group.by, group.difference.test) for group in found.groups} == {("length", "paired bootstrap")}


def test_ten_variants_of_ten_thousand_rows_take_seconds():
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 77, size=10_000)
    rows = Examples(
        {"text": ["x" * (i % 90) for i in range(10_000)], "label": labels},
        tuple(map(str, range(77))),
        {"source": [str(i % 20) for i in range(10_000)]},
    )
    started = time.process_time()
    scores = []
    for _ in range(10):
        guesses = np.where(generator.random(10_000) < 0.1, generator.integers(0, 77, size=10_000), labels)
        scores.append(scored(guesses, rows))
    slices = cut(TASK, rows, ["source"])
    for own in scores[1:]:
        for role, other in (("teacher", scores[0]), ("before", scores[1])):
            compare(TASK, own, other, rows, slices, against="x", role=role, flips=10, show=True)
    assert time.process_time() - started < 25
