"""Soft and hard labels against their formulas in NumPy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from kdc.distill.terms.base import IGNORED, TERMS
from tests.distill.terms.logit_terms import (
    HALF,
    MASK,
    STUDENT,
    TEACHER,
    TOKENS,
    averaged_gradients,
    check_half_precision,
    check_tokens,
    gradient,
    gradient_is_right,
    term,
    value,
)

LABELS = np.array([0, 3, 1, 2, 0, 1])
SOME = np.array([0, IGNORED, 1, 2, IGNORED, IGNORED])


def kl(student: np.ndarray, teacher: np.ndarray, temperature: Any) -> np.ndarray:
    """T² · Σ p_t (log p_t - log p_s), row by row."""
    temperature = np.asarray(temperature, dtype=float).reshape(-1, 1)
    p, q = softmax(teacher / temperature, axis=-1), softmax(student / temperature, axis=-1)
    return temperature[:, 0] ** 2 * (p * (np.log(p) - np.log(q))).sum(axis=-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_forward_kl_is_its_formula(temperature: float) -> None:
    np.testing.assert_allclose(value(term("kl", temperature=temperature)), kl(STUDENT, TEACHER, temperature))


def test_forward_kl_by_hand() -> None:
    """Teacher (1/2, 1/2), student (3/4, 1/4), T = 1: half of ln(2/3) and of ln 2, together ln(4/3) / 2."""
    student, teacher = np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]])
    assert value(term("kl", temperature=1), student, teacher) == pytest.approx([np.log(4 / 3) / 2])


def test_forward_kl_is_forward_and_twice_as_hot_by_default() -> None:
    assert np.abs(kl(TEACHER, STUDENT, 2) - kl(STUDENT, TEACHER, 2)).min() > 1e-3
    np.testing.assert_allclose(value(term("kl"), TEACHER, STUDENT), kl(TEACHER, STUDENT, 2))


def test_temperature_leaves_the_gradients_size_nearly_alone() -> None:
    """Why the factor T² is there: without it the gradient at T = 20 would be 16 times smaller than that of T = 5."""
    sizes = [np.linalg.norm(gradient(term("kl", temperature=temperature))) for temperature in (5, 20)]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.2)


def test_equal_logits_up_to_a_constant_have_no_divergence() -> None:
    assert value(term("kl"), TEACHER + 3, TEACHER) == pytest.approx(0, abs=1e-12)


def test_the_temperature_may_differ_from_row_to_row() -> None:
    setting = {"schedule": "confidence", "unsure": 1, "sure": 5}
    sureness = (softmax(TEACHER, axis=-1).max(axis=-1) - 1 / 4) / (1 - 1 / 4)
    np.testing.assert_allclose(value(term("kl", temperature=setting)), kl(STUDENT, TEACHER, 1 + 4 * sureness))


def test_soft_labels_token_by_token() -> None:
    check_tokens(term("kl", temperature=3))


def test_hard_labels_are_cross_entropy() -> None:
    wanted = -log_softmax(STUDENT, axis=-1)[np.arange(6), LABELS]
    np.testing.assert_allclose(value(term("hard"), labels=LABELS), wanted)
    assert value(term("hard"), labels=LABELS).mean() == pytest.approx(log_loss(LABELS, softmax(STUDENT, axis=-1)))


def test_rows_without_a_label_do_not_count() -> None:
    got = value(term("hard"), labels=SOME)
    wanted = -log_softmax(STUDENT, axis=-1)[[0, 2, 3], [0, 1, 2]].mean()
    assert got.mean() == pytest.approx(wanted)
    assert got[[1, 4, 5]].tolist() == [0, 0, 0]
    assert not gradient(term("hard"), labels=SOME)[[1, 4, 5]].any()
    assert value(term("hard"), labels=np.full(6, IGNORED)).tolist() == [0] * 6


def test_hard_labels_of_tokens_leave_padding_out_and_count_rows_alike() -> None:
    labels = np.where(MASK, [[0, 1, 2], [3, 0, 0]], IGNORED)
    check_tokens(term("hard"), labels)
    log_p = log_softmax(TOKENS, axis=-1)
    first = -(log_p[0, 0, 0] + log_p[0, 1, 1] + log_p[0, 2, 2]) / 3
    assert value(term("hard"), TOKENS, labels=labels) == pytest.approx([first, -log_p[1, 0, 3]])


@pytest.mark.parametrize(("name", "more"), [("kl", {}), ("hard", {"labels": SOME})])
def test_gradients(name: str, more: dict[str, Any]) -> None:
    assert gradient_is_right(term(name), **more)


@HALF
@pytest.mark.parametrize(("name", "more"), [("kl", {}), ("hard", {"labels": LABELS})])
def test_half_precision_is_computed_in_float32(name: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    check_half_precision(term(name), dtype, **more)


def test_the_weight_is_left_to_the_distiller() -> None:
    np.testing.assert_array_equal(value(term("kl", weight=3)), value(term("kl")))


def test_what_they_read() -> None:
    assert [(TERMS[n].reads_of_teacher, TERMS[n].needs_labels) for n in ("kl", "hard")] == [
        (frozenset({"logits"}), False),
        (frozenset(), True),
    ]


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"temperature": -1}, {"weight": -0.1}, {"weight": float("nan")}, {"heat": 2}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        term("kl", **settings)


def test_labelled_rows_count_alike_over_two_processes() -> None:
    """Here the only row has a label, there 2 of 5 have."""
    [got] = averaged_gradients([term("hard")], labels=SOME)
    np.testing.assert_allclose(got, gradient(term("hard"), labels=SOME), atol=1e-12)
