"""Divergences and distances of logits against SciPy, scikit-learn and their equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.spatial.distance import cosine, jensenshannon
from scipy.special import entr, rel_entr, softmax
from scipy.stats import entropy
from sklearn.metrics import mean_squared_error

from tests.distill.terms.logit_terms import (
    HALF,
    MASK,
    STUDENT,
    TEACHER,
    TEACHERS_TOKENS,
    TOKENS,
    averaged_gradients,
    check_half_precision,
    check_tokens,
    gradient,
    gradient_is_right,
    term,
    value,
)

EVERY = ["reverse_kl", "jsd", "tvd", "soft_cross_entropy", "logits_mse", "logits_cosine", "boundary"]
TEMPERED = [name for name in EVERY if not name.startswith("logits")]
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
SURENESS = (softmax(TEACHER, axis=-1).max(axis=-1) - 1 / 4) / (1 - 1 / 4)


def at(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The student's and the teacher's probabilities."""
    return softmax(STUDENT / temperature, axis=-1), softmax(TEACHER / temperature, axis=-1)


@TEMPERATURES
def test_reverse_kl(temperature: float) -> None:
    """MiniLLM, equation 1: KL(q || p) of student q and teacher p."""
    student, teacher = at(temperature)
    wanted = temperature**2 * entropy(student, teacher, axis=-1)
    np.testing.assert_allclose(value(term("reverse_kl", temperature=temperature)), wanted)


def test_reverse_kl_is_forward_kl_the_other_way_round() -> None:
    np.testing.assert_allclose(value(term("reverse_kl")), value(term("kl"), TEACHER, STUDENT))


@TEMPERATURES
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jsd(temperature: float, beta: float) -> None:
    """GKD, equation 1: β KL(P || βP + (1-β)Q) + (1-β) KL(Q || βP + (1-β)Q) of teacher P and student Q."""
    q, p = at(temperature)
    mixture = beta * p + (1 - beta) * q
    wanted = beta * rel_entr(p, mixture).sum(axis=-1) + (1 - beta) * rel_entr(q, mixture).sum(axis=-1)
    np.testing.assert_allclose(value(term("jsd", temperature=temperature, beta=beta)), temperature**2 * wanted)


def test_jsd_at_one_half_is_the_square_of_scipys_distance() -> None:
    wanted = [jensenshannon(q, p) ** 2 for q, p in zip(*at(1.0), strict=True)]
    np.testing.assert_allclose(value(term("jsd", temperature=1)), wanted)


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, "kl"), (1 - 1e-6, "reverse_kl")])
def test_jsd_tends_to_either_kl(beta: float, limit: str) -> None:
    """Huszár 2015, as GKD quotes it: JSD(β) / β -> KL(P || Q) as β -> 0, and by symmetry at 1."""
    np.testing.assert_allclose(value(term("jsd", beta=beta)) / 1e-6, value(term(limit)), rtol=1e-4)


def test_jsd_by_hand() -> None:
    """(1, 0) against (1/2, 1/2), all but: H(3/4, 1/4) - ln(2) / 2."""
    got = value(term("jsd", temperature=1), [[0.0, 0.0]], [[60.0, 0.0]])
    assert got == pytest.approx([np.log(4) - 0.75 * np.log(3) - np.log(2) / 2])
    assert value(term("jsd", temperature=1), [[0.0, 500.0]], [[500.0, 0.0]]) == pytest.approx([np.log(2)])


@TEMPERATURES
def test_tvd(temperature: float) -> None:
    """f-DISTILL's TVD: half the L1 distance; also the most by which a set of classes differs in probability."""
    student, teacher = at(temperature)
    wanted = np.maximum(student - teacher, 0).sum(axis=-1)
    np.testing.assert_allclose(value(term("tvd", temperature=temperature)), temperature * wanted)


def test_tvd_by_hand() -> None:
    student, teacher = np.log([[0.7, 0.2, 0.1]]), np.log([[0.5, 0.1, 0.4]])
    assert value(term("tvd", temperature=1), student, teacher) == pytest.approx([0.3])


@pytest.mark.parametrize("name", TEMPERED)
def test_the_factor_leaves_the_gradients_size_nearly_alone(name: str) -> None:
    """T² for divergences, T for total variation: without it T = 40 would give 16, or 4, times less than T = 10."""
    sizes = [np.linalg.norm(gradient(term(name, temperature=temperature))) for temperature in (10, 40)]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.2)


@TEMPERATURES
def test_soft_cross_entropy(temperature: float) -> None:
    """Hinton et al., section 2; it is the KL and the teacher's own entropy."""
    student, teacher = at(temperature)
    got = value(term("soft_cross_entropy", temperature=temperature))
    np.testing.assert_allclose(got, -(temperature**2) * (teacher * np.log(student)).sum(axis=-1))
    kl = value(term("kl", temperature=temperature))
    np.testing.assert_allclose(got, kl + temperature**2 * entr(teacher).sum(axis=-1))


def test_soft_cross_entropy_has_the_gradient_of_forward_kl() -> None:
    np.testing.assert_allclose(gradient(term("soft_cross_entropy")), gradient(term("kl")), atol=1e-12)


def test_logits_mse() -> None:
    """Ba and Caruana, equation 1, up to its factor."""
    got = value(term("logits_mse"))
    np.testing.assert_allclose(got * 4 / 2, 0.5 * np.linalg.norm(STUDENT - TEACHER, axis=-1) ** 2)
    assert got.mean() == pytest.approx(mean_squared_error(TEACHER, STUDENT))


def test_forward_kl_tends_to_half_the_squares_of_centred_logits() -> None:
    """Hinton et al., section 2.1."""
    student, teacher = (logits - logits.mean(axis=-1, keepdims=True) for logits in (STUDENT, TEACHER))
    hot = value(term("kl", temperature=1e4), student, teacher)
    np.testing.assert_allclose(hot, value(term("logits_mse"), student, teacher) / 2, rtol=1e-3)


def test_logits_cosine() -> None:
    wanted = [cosine(student, teacher) for student, teacher in zip(STUDENT, TEACHER, strict=True)]
    np.testing.assert_allclose(value(term("logits_cosine")), wanted)
    assert value(term("logits_cosine"), [[1.0, 0], [1, 1], [2, 0]], [[0, 3.0], [5, 5], [-1, 0]]) == pytest.approx(
        [1, 0, 2]
    )


def closeness(width: float) -> np.ndarray:
    """exp(-margin / width), over its mean."""
    ordered = np.sort(softmax(TEACHER, axis=-1), axis=-1)
    weights = np.exp(-(ordered[:, -1] - ordered[:, -2]) / width)
    return weights / weights.mean()


@TEMPERATURES
@pytest.mark.parametrize("width", [0.1, 0.5, 2.0])
def test_boundary(temperature: float, width: float) -> None:
    student, teacher = at(temperature)
    wanted = temperature**2 * entropy(teacher, student, axis=-1) * closeness(width)
    np.testing.assert_allclose(value(term("boundary", temperature=temperature, width=width)), wanted)


def test_boundary_by_hand() -> None:
    """Margins 0 and 3/5, width 3/5: weights 1 and 1/e, over their mean (1 + 1/e) / 2."""
    student, teacher = np.log([[0.9, 0.1], [0.9, 0.1]]), np.log([[0.5, 0.5], [0.2, 0.8]])
    got = value(term("boundary", temperature=1, width=0.6), student, teacher)
    torn, sure = 0.5 * np.log(25 / 9), 0.2 * np.log(2 / 9) + 0.8 * np.log(8)
    assert got == pytest.approx([2 * np.e / (1 + np.e) * torn, 2 / (1 + np.e) * sure])


def test_boundary_turns_to_hard_cases_the_narrower_it_is() -> None:
    ordered = np.sort(softmax(TEACHER, axis=-1), axis=-1)
    hardest = int((ordered[:, -1] - ordered[:, -2]).argmin())
    shares = []
    for width in (0.1, 0.5, 2.0, 1e6):
        got = value(term("boundary", width=width))
        shares.append(got[hardest] / got.sum())
    assert shares == sorted(shares, reverse=True)
    np.testing.assert_allclose(value(term("boundary", width=1e6)), value(term("kl")), rtol=1e-5)


def test_boundary_weighs_tokens_and_counts_rows_alike() -> None:
    """The weights' mean over rows is 1, where a row's is the mean over its tokens; padding has none."""
    ordered = np.sort(softmax(TEACHERS_TOKENS, axis=-1), axis=-1)
    weights = np.exp(-(ordered[..., -1] - ordered[..., -2]) / 0.5)
    kl = 4 * entropy(softmax(TEACHERS_TOKENS / 2, axis=-1), softmax(TOKENS / 2, axis=-1), axis=-1)
    mean = (weights[0].mean() + weights[1, 0]) / 2
    wanted = [(weights[0] * kl[0]).mean() / mean, weights[1, 0] * kl[1, 0] / mean]
    np.testing.assert_allclose(value(term("boundary"), TOKENS, TEACHERS_TOKENS, mask=MASK), wanted)


def test_boundary_is_the_same_over_two_processes() -> None:
    [got] = averaged_gradients([term("boundary")])
    np.testing.assert_allclose(got, gradient(term("boundary")), atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name: str) -> None:
    assert gradient_is_right(term(name))


@pytest.mark.parametrize("name", [name for name in EVERY if name != "soft_cross_entropy"])
def test_nothing_is_left_where_student_and_teacher_agree(name: str) -> None:
    assert value(term(name), TEACHER, TEACHER) == pytest.approx(0, abs=1e-12)


@HALF
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    check_half_precision(term(name), dtype)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "boundary"])
def test_token_by_token(name: str) -> None:
    check_tokens(term(name))


@pytest.mark.parametrize("name", [name for name in TEMPERED if name != "boundary"])
def test_the_temperature_may_differ_from_row_to_row(name: str) -> None:
    got = value(term(name, temperature={"schedule": "confidence", "unsure": 1, "sure": 5}))
    one_by_one = [
        value(term(name, temperature=1 + 4 * sure), STUDENT[[row]], TEACHER[[row]])[0]
        for row, sure in enumerate(SURENESS)
    ]
    np.testing.assert_allclose(got, one_by_one)


def test_boundarys_temperature_may_differ_from_row_to_row() -> None:
    hot = {"schedule": "confidence", "unsure": 1, "sure": 5}
    wanted = value(term("kl", temperature=hot)) * closeness(0.5)
    np.testing.assert_allclose(value(term("boundary", temperature=hot)), wanted)


def test_jsds_beta_may_change_and_differ_from_row_to_row() -> None:
    changing = term("jsd", beta={"schedule": "linear", "start": 0.2, "end": 0.8})
    np.testing.assert_allclose(value(changing, progress=0.5), value(term("jsd", beta=0.5)))
    got = value(term("jsd", beta={"schedule": "confidence", "unsure": 0.2, "sure": 0.9}))
    one_by_one = [
        value(term("jsd", beta=0.2 + 0.7 * sure), STUDENT[[row]], TEACHER[[row]])[0]
        for row, sure in enumerate(SURENESS)
    ]
    np.testing.assert_allclose(got, one_by_one)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("jsd", {"beta": 0}, "must stay off 0 and 1"),
        ("jsd", {"beta": 1.0}, "must stay off 0 and 1"),
        ("jsd", {"beta": {"schedule": "cosine", "start": 1, "end": 0.5}}, "must stay off 0 and 1"),
        ("jsd", {"beta": 1.5}, "must be at most 1"),
        ("boundary", {"width": 0}, "greater than 0"),
        ("tvd", {"temperature": 0}, "must be above 0"),
        ("logits_mse", {"temperature": 2}, "not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        term(name, **settings)
