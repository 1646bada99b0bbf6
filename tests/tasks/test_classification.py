"""Metrics of the classification tasks against scikit-learn and values computed by hand; checks of the data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from kdc.data.examples import Examples, Splits
from kdc.errors import KdcError
from kdc.tasks.base import TASKS, Task
from tests import tiny


def case(rows: int, classes: int, *, seed: int = 0) -> tuple[dict[str, np.ndarray], Examples]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    logits = random.standard_normal((rows, classes)).astype(np.float32)
    logits[np.arange(rows), truth] += 1
    examples = Examples({"text": [str(i) for i in range(rows)], "label": truth}, tuple("abcdefgh"[:classes]))
    return {"logits": logits}, examples


def test_scores_of_four_rows_by_hand() -> None:
    outputs = {"logits": np.array([[2, 1], [0, 3], [1, 0], [0, 1]], dtype=np.float32)}  # guesses 0 1 0 1
    examples = Examples({"text": list("abcd"), "label": np.array([0, 1, 1, 1])}, ("no", "yes"))
    scores = tiny.task().score(outputs, examples)
    # yes: 2 right, 0 false, 1 missed -> 4/5; no: 1 right, 1 false, 0 missed -> 2/3
    # mcc: (2*1 - 0*1) / sqrt(2 * 3 * 1 * 2)
    wanted = {"accuracy": 3 / 4, "f1": 4 / 5, "f1_macro": (4 / 5 + 2 / 3) / 2, "mcc": 2 / np.sqrt(12)}
    assert scores == pytest.approx(wanted)
    np.testing.assert_array_equal(tiny.task().hits(outputs, examples), [1.0, 1.0, 0.0, 1.0])
    assert tiny.task().answers(outputs, examples.labels) == ["no", "yes", "no", "yes"]


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_and_all_draws_equal_scikit_learn(classes: int) -> None:
    task = tiny.task()
    outputs, examples = case(60, classes)
    truth, guess = examples["label"], outputs["logits"].argmax(-1)
    scores = task.score(outputs, examples)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert scores["f1_macro"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    assert scores["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, guess))
    assert ("f1" in scores) == (classes == 2)
    draws = np.random.default_rng(1).integers(0, 60, size=(20, 60))
    fast, slow = task.rescore(outputs, examples, draws), Task.rescore(task, outputs, examples, draws)
    assert set(fast) == set(slow) == set(scores)
    for name, values in slow.items():
        np.testing.assert_allclose(fast[name], values, err_msg=name)


def test_draws_of_one_class_have_the_values_of_scikit_learn() -> None:
    """A resample may miss a class: F1 then leaves it out and Matthews correlation is 0."""
    outputs, examples = case(30, 2)
    rows = np.flatnonzero(examples["label"] == 0)
    draws = np.stack([rows, rows[::-1]])
    fast = tiny.task().rescore(outputs, examples, draws)
    slow = Task.rescore(tiny.task(), outputs, examples, draws)
    for name, values in slow.items():
        np.testing.assert_allclose(fast[name], values, err_msg=name)


@pytest.mark.parametrize("name", ["text-classification", "image-classification"])
def test_check_names_the_missing_column_and_data_of_one_class(name: str) -> None:
    task = TASKS[name]()
    good = tiny.sentences(8) if task.modality == "text" else tiny.pictures(8)
    column = "text" if task.modality == "text" else "image"
    task.check(splits(good), "accuracy")
    for missing in (column, "label"):
        rest = Examples({k: v for k, v in good.columns.items() if k != missing} | {"other": [0] * 8}, good.labels)
        with pytest.raises(KdcError, match=rf"needs a column '{missing}'.*dataset\.columns\.{missing}=NAME"):
            task.check(splits(rest), "accuracy")
    one = Examples({**good.columns, "label": np.zeros(8, dtype=np.int64)}, good.labels)
    with pytest.raises(KdcError, match="one class only"):
        task.check(splits(one), "accuracy")


def test_f1_needs_two_labels() -> None:
    tiny.task().check(splits(case(9, 2)[1]), "f1")
    three = splits(case(9, 3)[1])
    with pytest.raises(KdcError, match=r"dataset\.metric: f1 needs two labels, the data has 3; use f1_macro"):
        tiny.task().check(three, "f1")
    tiny.task().check(three, "f1_macro")


def test_targets_are_numbers_and_truth_is_names() -> None:
    rows = tiny.sentences(3)
    np.testing.assert_array_equal(tiny.task().targets(rows, [{}] * 3), rows["label"])
    assert tiny.task().truth(rows) == ["negative", "positive", "negative"]


def splits(examples: Examples) -> Splits:
    return {"train": examples, "validation": examples, "test": examples}


def test_confidences_are_the_softmax_of_the_answers() -> None:
    outputs = {"logits": np.array([[1000.0, 1000.0], [0.0, np.log(4.0)]])}
    assert tiny.task().confidences(outputs) == pytest.approx([0.5, 0.8])


def test_rows_group_by_their_true_class_and_a_logit_speaks_for_its_answer() -> None:
    import torch

    outputs, examples = case(4, 3)
    assert tiny.task().groups(examples) == {"class": [examples.labels[i] for i in examples["label"]]}
    spoken = tiny.task().evidence({"logits": torch.from_numpy(outputs["logits"])}, "b", examples.labels)
    assert spoken is not None
    assert spoken.tolist() == outputs["logits"][:, 1].tolist()


def test_the_hit_rate_is_the_mean_of_the_hits() -> None:
    task = tiny.task()
    outputs, examples = case(40, 3)
    assert task.hit_rate is not None
    assert task.score(outputs, examples)[task.hit_rate] == task.hits(outputs, examples).mean()
