import numpy as np
import pyarrow.parquet as pq
import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure.calibration import calibration
from kdc.measure.quality import measure_quality, save_predictions
from kdc.measure.scores import score_rows
from kdc.tasks.text_classification import TextClassification
from tests import toys

EXAMPLES = Examples({"text": list("abcdefgh"), "label": np.array([0, 0, 0, 0, 1, 1, 1, 1])}, ("no", "yes"))


TASK = TextClassification()


def guesses(*labels):
    """Outputs that are sure of these labels."""
    return {"logits": np.eye(2, dtype=np.float32)[list(labels)]}


def scored(*labels):
    return score_rows(TASK, guesses(*labels), EXAMPLES)


def measured(scores, **settings):
    return measure_quality(TASK, scores, split="test", **{"primary": "accuracy", **settings})


STUDENT = scored(0, 0, 0, 1, 1, 1, 0, 0)


def test_metrics_by_hand_with_intervals_and_the_primary_marked():
    quality = measured(STUDENT)
    assert (quality.split, quality.n) == ("test", 8)
    assert quality.metrics["accuracy"].value == 5 / 8
    assert quality.metrics["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    low, high = quality.metrics["accuracy"].ci95
    assert low < 5 / 8 < high
    assert [name for name, metric in quality.metrics.items() if metric.primary] == ["accuracy"]
    assert quality.retained is None


def test_retained_and_agreement_are_against_the_teacher():
    student = measured(STUDENT, primary="f1", teacher=scored(0, 0, 0, 0, 1, 1, 1, 0))
    assert student.retained == pytest.approx((4 / 7) / (6 / 7))
    assert student.agreement == {"argmax": 6 / 8}


def test_a_teacher_that_scores_nothing_leaves_nothing_to_retain():
    assert measured(STUDENT, teacher=scored(1, 1, 1, 1, 0, 0, 0, 0)).retained is None


def test_calibration_is_of_the_confidence_in_the_answers():
    sure = np.e / (np.e + 1)
    assert measured(STUDENT).calibration == calibration(np.full(8, sure), STUDENT.hits)
    assert measured(STUDENT).calibration.ece == pytest.approx(abs(sure - 5 / 8), abs=1e-6)


def test_a_task_that_tells_no_confidence_has_no_calibration():
    task = toys.ToyTagging()
    rows = Examples({"text": ["a", "b"], "tags": [[0], [1]]}, ("O", "B"))
    scores = score_rows(task, {"logits": np.eye(2)[[[0], [0]]]}, rows)
    assert measure_quality(task, scores, split="test", primary="accuracy").calibration is None


def test_one_row_has_metrics_without_intervals():
    one = EXAMPLES.select([0])
    quality = measured(score_rows(TASK, guesses(0), one))
    assert quality.metrics["accuracy"].value == 1.0
    assert all(metric.ci95 is None for metric in quality.metrics.values())


def test_unknown_metric_is_refused_with_a_suggestion():
    with pytest.raises(KdcError, match="no metric 'acuracy' on this data; did you mean 'accuracy'"):
        measured(STUDENT, primary="acuracy")


def test_outputs_that_are_not_finite_fail():
    broken = guesses(0, 0, 0, 1, 1, 1, 0, 0)
    broken["logits"][3, 1] = np.nan
    with pytest.raises(KdcError, match=r"not finite on 1 of 8 examples \(the first is row 3\)") as caught:
        score_rows(TASK, broken, EXAMPLES)
    assert caught.value.exit_code == 1


def test_a_metric_that_is_not_a_number_fails(monkeypatch):
    monkeypatch.setattr(TextClassification, "score", lambda *_: {"accuracy": 0.5, "mcc": float("nan")})
    with pytest.raises(KdcError, match="text-classification: mcc is nan on the 8 test rows; the rows do not") as caught:
        scored(0, 0, 0, 1, 1, 1, 0, 0)
    assert caught.value.exit_code == 1


def test_predictions_are_saved_row_by_row(tmp_path):
    save_predictions(tmp_path / "student.parquet", TASK, STUDENT, EXAMPLES, show=False)
    rows = pq.read_table(tmp_path / "student.parquet").to_pylist()
    assert rows[3] == {
        "id": EXAMPLES.ids[3], "label": "no", "prediction": "yes", "correct": False, "logits": [0.0, 1.0]
    }  # fmt: skip
    assert [row["correct"] for row in rows] == [True, True, True, False, True, True, False, False]


def test_predictions_of_a_task_without_a_class_a_row_are_saved_too(tmp_path):
    tagged = Examples({"text": ["a b", "c d"], "tags": [[0, 1], [1, 1]]}, ("O", "B"))
    task = toys.ToyTagging()
    scores = score_rows(task, {"logits": np.eye(2, dtype=np.float32)[[[0, 1], [1, 0]]]}, tagged)
    save_predictions(tmp_path / "tags.parquet", task, scores, tagged, show=True)
    rows = pq.read_table(tmp_path / "tags.parquet", columns=["label", "prediction", "correct"]).to_pylist()
    assert rows == [
        {"label": "['O', 'B']", "prediction": "['O', 'B']", "correct": True},
        {"label": "['B', 'B']", "prediction": "['B', 'O']", "correct": False},
    ]
    save_predictions(tmp_path / "withheld.parquet", task, scores, tagged, show=False)
    rows = pq.read_table(tmp_path / "withheld.parquet", columns=["label", "prediction", "correct"]).to_pylist()
    assert {row["label"] for row in rows} | {row["prediction"] for row in rows} == {"(withheld)"}
    assert [row["correct"] for row in rows] == [True, False]
