"""Several labels a row, and numbers, against scikit-learn, SciPy and torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import expit
from scipy.stats import entropy
from sklearn.metrics import log_loss, mean_squared_error

from kdc.distill.terms.base import IGNORED, TERMS
from tests.distill.terms.logit_terms import (
    HALF,
    MASK,
    STUDENT,
    TEACHER,
    averaged_gradients,
    check_half_precision,
    check_tokens,
    gradient,
    gradient_is_right,
    term,
    value,
)

RNG = np.random.default_rng(3)
PRESENT = RNG.integers(0, 2, (6, 4)).astype(float)
SOME = np.where(np.array([1, 0, 1, 1, 0, 0], dtype=bool)[:, None], PRESENT, IGNORED)
NUMBERS = RNG.normal(size=(6, 4))
SOME_NUMBERS = np.where(SOME == IGNORED, np.nan, NUMBERS)
EVERY = [
    ("sigmoid_kl", {}),
    ("multilabel", {"labels": SOME}),
    ("regression", {"labels": SOME_NUMBERS}),
    ("regression_soft", {}),
]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sigmoid_kl(temperature: float) -> None:
    """Yang et al., the MLD loss, over the number of labels: KL((p, 1 - p) || (q, 1 - q)) of teacher p and student q."""
    p, q = expit(TEACHER / temperature), expit(STUDENT / temperature)
    wanted = temperature**2 * entropy([p, 1 - p], [q, 1 - q], axis=0).mean(axis=-1)
    np.testing.assert_allclose(value(term("sigmoid_kl", temperature=temperature)), wanted)


def test_sigmoid_kl_of_one_label_is_the_kl_of_two_classes() -> None:
    """A sigmoid of z is a softmax of (z, 0)."""
    student, teacher = (np.stack([logits[:, 0], np.zeros(6)], axis=1) for logits in (STUDENT, TEACHER))
    got = value(term("sigmoid_kl", temperature=3), student[:, :1], teacher[:, :1])
    np.testing.assert_allclose(got, value(term("kl", temperature=3), student, teacher))


def test_sigmoid_kl_stays_finite_where_student_and_teacher_are_certain() -> None:
    got = value(term("sigmoid_kl", temperature=1), [[-200.0, 200]], [[200.0, -200]], dtype=torch.float32)
    assert got == pytest.approx([200])


def test_sigmoid_kls_factor_leaves_the_gradients_size_nearly_alone() -> None:
    sizes = [np.linalg.norm(gradient(term("sigmoid_kl", temperature=temperature))) for temperature in (10, 40)]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.2)


def test_sigmoid_kls_temperature_may_change() -> None:
    changing = term("sigmoid_kl", temperature={"schedule": "linear", "start": 1, "end": 5})
    np.testing.assert_allclose(value(changing, progress=0.5), value(term("sigmoid_kl", temperature=3)))


@pytest.mark.parametrize(("name", "more"), EVERY)
def test_the_teachers_confidence_in_a_class_is_refused(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="weight cannot follow the teacher's confidence"):
        term(name, weight={"schedule": "confidence", "unsure": 0, "sure": 1})


def test_sigmoid_kl_token_by_token() -> None:
    check_tokens(term("sigmoid_kl"))


def test_multilabel_is_the_mean_of_binary_cross_entropies() -> None:
    got = value(term("multilabel"), labels=PRESENT)
    wanted = [
        log_loss(row, probabilities, labels=[0, 1]) for row, probabilities in zip(PRESENT, expit(STUDENT), strict=True)
    ]
    np.testing.assert_allclose(got, wanted)
    np.testing.assert_allclose(value(term("multilabel"), labels=PRESENT.astype(int)), wanted)


def test_multilabel_by_hand() -> None:
    """Logits 0 and ln 3, labels 0 and 1/4: ln 2 and -(ln(3/4) + 3 ln(1/4)) / 4 = ln 4 - ln(3) / 4."""
    got = value(term("multilabel"), [[0.0, np.log(3)]], [[0.0, 0]], labels=np.array([[0, 0.25]]))
    assert got == pytest.approx([(np.log(2) + np.log(4) - np.log(3) / 4) / 2])


def test_rows_without_labels_do_not_count() -> None:
    alone = value(term("multilabel"), labels=PRESENT)
    got = value(term("multilabel"), labels=SOME)
    assert got.mean() == pytest.approx(alone[[0, 2, 3]].mean())
    assert got[[1, 4, 5]].tolist() == [0, 0, 0]
    alone, got = (value(term("regression"), labels=labels) for labels in (NUMBERS, SOME_NUMBERS))
    assert got.mean() == pytest.approx(alone[[0, 2, 3]].mean())
    assert got[[1, 4, 5]].tolist() == [0, 0, 0]


def test_a_missing_label_of_a_row_leaves_the_others() -> None:
    labels = np.where(np.arange(4) == 2, IGNORED, PRESENT)
    got, rest = value(term("multilabel"), labels=labels), [0, 1, 3]
    np.testing.assert_allclose(got, value(term("multilabel"), STUDENT[:, rest], labels=PRESENT[:, rest]))
    got = value(term("regression"), labels=np.where(np.arange(4) == 2, np.nan, NUMBERS))
    np.testing.assert_allclose(got, value(term("regression"), STUDENT[:, rest], labels=NUMBERS[:, rest]))


def test_regression_is_the_mean_squared_error() -> None:
    got = value(term("regression"), labels=NUMBERS)
    np.testing.assert_allclose(got, ((STUDENT - NUMBERS) ** 2).mean(axis=-1))
    assert got.mean() == pytest.approx(mean_squared_error(NUMBERS, STUDENT))


def test_labels_of_one_number_need_no_axis_of_their_own() -> None:
    one = STUDENT[:, :1]
    flat = value(term("regression"), one, labels=NUMBERS[:, 0])
    np.testing.assert_allclose(flat, (STUDENT[:, 0] - NUMBERS[:, 0]) ** 2)
    np.testing.assert_array_equal(value(term("regression"), one, labels=NUMBERS[:, :1]), flat)


def test_soft_regression_is_the_error_against_the_teacher() -> None:
    got = value(term("regression_soft"))
    assert got.mean() == pytest.approx(mean_squared_error(TEACHER, STUDENT))
    np.testing.assert_allclose(got, value(term("regression"), labels=TEACHER))
    check_tokens(term("regression_soft"))


def test_labels_of_tokens_leave_padding_out() -> None:
    labels = np.where(MASK[..., None], RNG.integers(0, 2, (2, 3, 4)), IGNORED)
    check_tokens(term("multilabel"), labels)
    check_tokens(term("regression"), np.where(labels == IGNORED, np.nan, labels))


@pytest.mark.parametrize(("name", "more"), EVERY)
def test_gradients(name: str, more: dict[str, Any]) -> None:
    assert gradient_is_right(term(name), **more)


@HALF
@pytest.mark.parametrize(("name", "more"), EVERY)
def test_half_precision_is_computed_in_float32(name: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    check_half_precision(term(name), dtype, **more)


def test_labelled_rows_count_alike_over_two_processes() -> None:
    """Here the only row has a label, there 2 of 5 have."""
    [got] = averaged_gradients([term("multilabel")], labels=SOME)
    np.testing.assert_allclose(got, gradient(term("multilabel"), labels=SOME), atol=1e-12)


def test_what_they_read() -> None:
    assert {name: (bool(TERMS[name].reads_of_teacher), TERMS[name].needs_labels) for name, _ in EVERY} == {
        "sigmoid_kl": (True, False),
        "multilabel": (False, True),
        "regression": (False, True),
        "regression_soft": (True, False),
    }
