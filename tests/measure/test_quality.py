from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure.quality import measure_quality, save_predictions
from kdc.tasks.text_classification import TextClassification

EXAMPLES = Examples({"text": list("abcdefgh"), "label": np.array([0, 0, 0, 0, 1, 1, 1, 1])}, ("no", "yes"))


@dataclass
class Fixed:
    """A session that says what it was given: `guess` as confident logits."""

    guess: list[int]
    task = TextClassification()

    def predict(self, examples: Examples, *, batch_size: int = 32) -> dict[str, np.ndarray]:
        return {"logits": np.eye(2, dtype=np.float32)[self.guess]}


def test_metrics_by_hand_with_intervals_and_the_primary_marked():
    quality, outputs = measure_quality(Fixed([0, 0, 0, 1, 1, 1, 0, 0]), EXAMPLES, split="test")
    assert (quality.split, quality.n) == ("test", 8)
    assert quality.metrics["accuracy"].value == 5 / 8
    assert quality.metrics["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    low, high = quality.metrics["accuracy"].ci95
    assert low < 5 / 8 < high
    assert [name for name, metric in quality.metrics.items() if metric.primary] == ["accuracy"]
    assert quality.retained is None
    assert outputs["logits"].shape == (8, 2)


def test_retained_and_agreement_are_against_the_teacher():
    teacher = measure_quality(Fixed([0, 0, 0, 0, 1, 1, 1, 0]), EXAMPLES, split="test", primary="f1")
    student, _ = measure_quality(Fixed([0, 0, 0, 1, 1, 1, 0, 0]), EXAMPLES, split="test", primary="f1", against=teacher)
    assert student.retained == pytest.approx((4 / 7) / (6 / 7))
    assert student.agreement == {"argmax": 6 / 8}


def test_unknown_metric_is_refused_with_a_suggestion():
    with pytest.raises(KdcError, match="no metric 'acuracy' on this data; did you mean 'accuracy'"):
        measure_quality(Fixed([0] * 8), EXAMPLES, split="test", primary="acuracy")


def test_outputs_that_are_not_finite_fail():
    session = Fixed([0] * 8)
    broken = session.predict(EXAMPLES)
    broken["logits"][3, 1] = np.nan
    session.predict = lambda examples, batch_size=32: broken
    with pytest.raises(KdcError, match=r"not finite on 1 of 8 examples \(the first is row 3\)") as caught:
        measure_quality(session, EXAMPLES, split="test")
    assert caught.value.exit_code == 1


def test_predictions_are_saved_row_by_row(tmp_path):
    session = Fixed([0, 0, 0, 1, 1, 1, 0, 0])
    outputs = session.predict(EXAMPLES)
    save_predictions(tmp_path / "student.parquet", session.task, outputs, EXAMPLES)
    rows = pq.read_table(tmp_path / "student.parquet").to_pylist()
    assert rows[3] == {
        "id": EXAMPLES.ids[3], "label": "no", "prediction": "yes", "correct": False, "logits": [0.0, 1.0]
    }  # fmt: skip
    assert [row["correct"] for row in rows] == [True, True, True, False, True, True, False, False]
