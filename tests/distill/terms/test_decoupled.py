"""DKD and DIST against their equations in NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax
from scipy.stats import entropy, pearsonr

from kdc.distill.terms.base import IGNORED, TERMS
from tests.distill.terms.logit_terms import (
    HALF,
    MASK,
    STUDENT,
    TEACHER,
    TEACHERS_TOKENS,
    TOKENS,
    averaged_gradients,
    batch,
    check_half_precision,
    check_tokens,
    gradient,
    gradient_is_right,
    term,
    value,
)

LABELS = np.array([0, 3, 1, 2, 0, 1])
SOME = np.array([0, IGNORED, 1, 2, IGNORED, IGNORED])
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
SURENESS = (softmax(TEACHER, axis=-1).max(axis=-1) - 1 / 4) / (1 - 1 / 4)


def parts(temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TCKD and NCKD of equation 5, and the teacher's probability of the target, row by row, without T²."""
    tckd, nckd, sure = [], [], []
    for student, teacher, label in zip(STUDENT / temperature, TEACHER / temperature, LABELS, strict=True):
        p, q = softmax(teacher), softmax(student)
        tckd.append(entropy([p[label], 1 - p[label]], [q[label], 1 - q[label]]))
        nckd.append(entropy(softmax(np.delete(teacher, label)), softmax(np.delete(student, label))))
        sure.append(p[label])
    return np.array(tckd), np.array(nckd), np.array(sure)


@TEMPERATURES
@pytest.mark.parametrize(("alpha", "beta"), [(1, 8), (0.5, 2), (0, 1), (1, 0)])
def test_dkd(temperature: float, alpha: float, beta: float) -> None:
    """Zhao et al., equation 7."""
    tckd, nckd, _ = parts(temperature)
    got = value(term("dkd", temperature=temperature, alpha=alpha, beta=beta), labels=LABELS)
    np.testing.assert_allclose(got, temperature**2 * (alpha * tckd + beta * nckd))


def test_dkd_with_the_teachers_doubt_for_beta_is_forward_kl() -> None:
    """Zhao et al., equation 6: KD = TCKD + (1 - p_t) NCKD."""
    of_target, of_others = (term("dkd", temperature=2, **one) for one in ({"beta": 0}, {"alpha": 0, "beta": 1}))
    doubt = 1 - parts(2)[2]
    got = value(of_target, labels=LABELS) + doubt * value(of_others, labels=LABELS)
    np.testing.assert_allclose(got, value(term("kl", temperature=2)))


def test_dkd_of_two_classes_is_forward_kl_times_alpha() -> None:
    student, teacher, labels = STUDENT[:, :2], TEACHER[:, :2], LABELS % 2
    got = value(term("dkd", temperature=2, alpha=3), student, teacher, labels=labels)
    np.testing.assert_allclose(got, 3 * value(term("kl"), student, teacher))


def test_dkd_stays_finite_where_student_and_teacher_are_certain() -> None:
    """In float32, where the probability of all other classes together is 0."""
    certain = np.array([[300.0, 0, 1], [0, 300, 2]])
    got = value(term("dkd", temperature=1), certain[::-1].copy(), certain, labels=np.array([0, 1]), dtype=torch.float32)
    assert np.isfinite(got).all()
    assert (got > 100).all()


def test_dkd_leaves_out_rows_without_a_label() -> None:
    alone = value(term("dkd"), labels=LABELS)
    got = value(term("dkd"), labels=SOME)
    assert got.mean() == pytest.approx(alone[[0, 2, 3]].mean())
    assert got[[1, 4, 5]].tolist() == [0, 0, 0]
    assert not gradient(term("dkd"), labels=SOME)[[1, 4, 5]].any()


def test_dkd_token_by_token() -> None:
    check_tokens(term("dkd"), np.where(MASK, [[0, 1, 2], [3, 0, 0]], IGNORED))


def test_dkds_settings_may_change_and_differ_from_row_to_row() -> None:
    def row_by_row(unsure: float, sure: float) -> dict[str, Any]:
        return {"schedule": "confidence", "unsure": unsure, "sure": sure}

    tckd, nckd, _ = parts(4)
    got = value(term("dkd", alpha=row_by_row(0, 2), beta=row_by_row(5, 1)), labels=LABELS)
    np.testing.assert_allclose(got, 16 * (2 * SURENESS * tckd + (5 - 4 * SURENESS) * nckd))
    got = value(term("dkd", temperature=row_by_row(1, 5)), labels=LABELS)
    wanted = [value(term("dkd", temperature=1 + 4 * sure), labels=LABELS)[row] for row, sure in enumerate(SURENESS)]
    np.testing.assert_allclose(got, wanted)
    later = term("dkd", beta={"schedule": "linear", "start": 8, "end": 0})
    np.testing.assert_allclose(value(later, labels=LABELS, progress=0.75), value(term("dkd", beta=2), labels=LABELS))


def correlations(student: np.ndarray, teacher: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's correlation within each example, and within each class."""
    q, p = softmax(student / temperature, axis=-1), softmax(teacher / temperature, axis=-1)
    return (
        np.array([pearsonr(*rows).statistic for rows in zip(q, p, strict=True)]),
        np.array([pearsonr(*columns).statistic for columns in zip(q.T, p.T, strict=True)]),
    )


@TEMPERATURES
@pytest.mark.parametrize(("beta", "gamma"), [(1, 1), (2, 0.5), (0, 1), (1, 0)])
def test_dist(temperature: float, beta: float, gamma: float) -> None:
    """Huang et al.: β L_inter + γ L_intra."""
    inter, intra = correlations(STUDENT, TEACHER, temperature)
    wanted = beta * (1 - inter).mean() + gamma * (1 - intra).mean()
    assert value(term("dist", temperature=temperature, beta=beta, gamma=gamma)) == pytest.approx(wanted)


def test_dist_does_not_ask_for_the_same_probabilities() -> None:
    """The relation is what counts: probabilities halfway to uniform are as good as the teacher's own."""
    student = np.log(softmax(TEACHER, axis=-1) / 2 + 1 / 8)
    assert value(term("dist"), student, TEACHER) == pytest.approx(0, abs=1e-9)
    assert value(term("kl", temperature=1), student, TEACHER).min() > 0.05


def test_dists_gradient_does_not_shrink_with_the_temperature() -> None:
    """Why there is no T²: a correlation stays where both its arguments are divided by T."""
    sizes = [np.linalg.norm(gradient(term("dist", temperature=temperature))) for temperature in (20, 80)]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.1)


def test_dist_of_two_classes_learns_within_classes_alone() -> None:
    student, teacher = torch.tensor(STUDENT[:, :2], requires_grad=True), TEACHER[:, :2]
    loss = term("dist", gamma=0).loss(batch(student, teacher))
    loss.backward()
    disagree = (STUDENT[:, 0] > STUDENT[:, 1]) != (TEACHER[:, 0] > TEACHER[:, 1])
    assert float(loss.detach()) == pytest.approx(2 * disagree.mean())
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_dist_over_tokens() -> None:
    """Within classes all real tokens are compared; the correlations within tokens count rows alike."""
    inter, intra = correlations(TOKENS[MASK], TEACHERS_TOKENS[MASK], 1)
    wanted = ((1 - inter[:3]).mean() + (1 - inter[3])) / 2 + (1 - intra).mean()
    assert value(term("dist"), TOKENS, TEACHERS_TOKENS, mask=MASK) == pytest.approx(wanted)
    padded = np.where(MASK[..., None], TOKENS, [50, 0, -50, 0])
    assert value(term("dist"), padded, TEACHERS_TOKENS, mask=MASK) == pytest.approx(wanted)
    inter, intra = correlations(TOKENS.reshape(6, 4), TEACHERS_TOKENS.reshape(6, 4), 1)
    assert value(term("dist"), TOKENS, TEACHERS_TOKENS) == pytest.approx((1 - inter).mean() + (1 - intra).mean())


def test_dists_settings_may_change_and_beta_and_temperature_differ_from_row_to_row() -> None:
    inter, intra = correlations(STUDENT, TEACHER, 1)
    got = value(term("dist", beta={"schedule": "confidence", "unsure": 0, "sure": 3}))
    assert got == pytest.approx((3 * SURENESS * (1 - inter)).mean() + (1 - intra).mean())
    got = value(term("dist", gamma={"schedule": "linear", "start": 0, "end": 4}), progress=0.25)
    assert got == pytest.approx((1 - inter).mean() + (1 - intra).mean())
    heat = (1 + 4 * SURENESS)[:, None]
    inter, intra = correlations(STUDENT / heat, TEACHER / heat, 1)
    got = value(term("dist", temperature={"schedule": "confidence", "unsure": 1, "sure": 5}))
    assert got == pytest.approx((1 - inter).mean() + (1 - intra).mean())


def test_dist_is_no_mean_over_rows() -> None:
    assert not TERMS["dist"].by_row
    assert value(term("dist")).shape == ()


@pytest.mark.parametrize(("name", "more"), [("dkd", {"labels": SOME}), ("dist", {})])
def test_gradients(name: str, more: dict[str, Any]) -> None:
    assert gradient_is_right(term(name), **more)


@HALF
@pytest.mark.parametrize(("name", "more"), [("dkd", {"labels": LABELS}), ("dist", {})])
def test_half_precision_is_computed_in_float32(name: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    check_half_precision(term(name), dtype, **more)


@pytest.mark.parametrize(("name", "more"), [("dkd", {"labels": LABELS}), ("dist", {})])
def test_nothing_is_left_where_student_and_teacher_agree(name: str, more: dict[str, Any]) -> None:
    assert value(term(name), TEACHER, TEACHER, **more) == pytest.approx(0, abs=1e-12)


def test_both_are_the_same_over_two_processes() -> None:
    """Here the only row has a label, there 2 of 5 have; DIST compares all six."""
    losses = [term("dkd"), term("dist", beta=2, gamma=3)]
    got = averaged_gradients(losses, labels=SOME)
    for loss, found in zip(losses, got, strict=True):
        np.testing.assert_allclose(found, gradient(loss, labels=SOME), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dkd", {"alpha": -1}, "must be at least 0"),
        ("dkd", {"beta": -0.1}, "must be at least 0"),
        ("dist", {"beta": -1}, "must be at least 0"),
        ("dist", {"gamma": -1}, "must be at least 0"),
        ("dist", {"temperature": 0}, "must be above 0"),
        ("dist", {"gamma": {"schedule": "confidence", "unsure": 0, "sure": 1}}, "cannot differ from row to row"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        term(name, **settings)
