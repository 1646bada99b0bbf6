import numpy as np
import pyarrow.parquet as pq
import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure.quality import measure_quality, save_predictions
from kdc.tasks.text_classification import TextClassification
from tests import toys

EXAMPLES = Examples({"text": list("abcdefgh"), "label": np.array([0, 0, 0, 0, 1, 1, 1, 1])}, ("no", "yes"))


TASK = TextClassification()


def guesses(*labels):
    """Outputs that are sure of these labels."""
    return {"logits": np.eye(2, dtype=np.float32)[list(labels)]}


STUDENT = guesses(0, 0, 0, 1, 1, 1, 0, 0)


def test_metrics_by_hand_with_intervals_and_the_primary_marked():
    quality = measure_quality(TASK, STUDENT, EXAMPLES, split="test")
    assert (quality.split, quality.n) == ("test", 8)
    assert quality.metrics["accuracy"].value == 5 / 8
    assert quality.metrics["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    low, high = quality.metrics["accuracy"].ci95
    assert low < 5 / 8 < high
    assert [name for name, metric in quality.metrics.items() if metric.primary] == ["accuracy"]
    assert quality.retained is None


def test_retained_and_agreement_are_against_the_teacher():
    outputs = guesses(0, 0, 0, 0, 1, 1, 1, 0)
    teacher = measure_quality(TASK, outputs, EXAMPLES, split="test", primary="f1")
    student = measure_quality(TASK, STUDENT, EXAMPLES, split="test", primary="f1", against=(teacher, outputs))
    assert student.retained == pytest.approx((4 / 7) / (6 / 7))
    assert student.agreement == {"argmax": 6 / 8}


def test_a_teacher_that_scores_nothing_leaves_nothing_to_retain():
    outputs = guesses(1, 1, 1, 1, 0, 0, 0, 0)
    teacher = measure_quality(TASK, outputs, EXAMPLES, split="test")
    assert measure_quality(TASK, STUDENT, EXAMPLES, split="test", against=(teacher, outputs)).retained is None


def test_unknown_metric_is_refused_with_a_suggestion():
    with pytest.raises(KdcError, match="no metric 'acuracy' on this data; did you mean 'accuracy'"):
        measure_quality(TASK, STUDENT, EXAMPLES, split="test", primary="acuracy")


def test_outputs_that_are_not_finite_fail():
    broken = guesses(0, 0, 0, 1, 1, 1, 0, 0)
    broken["logits"][3, 1] = np.nan
    with pytest.raises(KdcError, match=r"not finite on 1 of 8 examples \(the first is row 3\)") as caught:
        measure_quality(TASK, broken, EXAMPLES, split="test")
    assert caught.value.exit_code == 1


def test_predictions_are_saved_row_by_row(tmp_path):
    save_predictions(tmp_path / "student.parquet", TASK, STUDENT, EXAMPLES)
    rows = pq.read_table(tmp_path / "student.parquet").to_pylist()
    assert rows[3] == {
        "id": EXAMPLES.ids[3], "label": "no", "prediction": "yes", "correct": False, "logits": [0.0, 1.0]
    }  # fmt: skip
    assert [row["correct"] for row in rows] == [True, True, True, False, True, True, False, False]


def test_predictions_of_a_task_without_a_class_a_row_are_saved_too(tmp_path):
    tagged = Examples({"text": ["a b", "c d"], "tags": [[0, 1], [1, 1]]}, ("O", "B"))
    outputs = {"logits": np.eye(2, dtype=np.float32)[[[0, 1], [1, 0]]]}
    save_predictions(tmp_path / "tags.parquet", toys.ToyTagging(), outputs, tagged)
    rows = pq.read_table(tmp_path / "tags.parquet", columns=["label", "prediction", "correct"]).to_pylist()
    assert rows == [
        {"label": "['O', 'B']", "prediction": "['O', 'B']", "correct": True},
        {"label": "['B', 'B']", "prediction": "['B', 'O']", "correct": False},
    ]
