"""Self-attention relations against the equations of MiniLM and MiniLMv2 in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax

from kdc.distill.terms.base import Batch, Term
from kdc.models.taps import Taps
from tests.distill.terms.layered import (
    LENGTHS,
    MASK,
    berts,
    check_real_models,
    drawn,
    gradients_are_right,
    is_named,
    problems,
    rows_of,
    term,
    texts,
    value,
)

SIGNALS = {"query_relation": "queries", "key_relation": "keys", "value_relation": "values"}
STUDENT, TEACHER = drawn(2, 3, 5, 12, seed=1), drawn(4, 3, 5, 24, seed=2)
NAMES = list(SIGNALS)


def relation(name: str = "value_relation", *, heads: int = 4, **settings: Any) -> Term:
    return term(name, relation_heads=heads, **settings)


def relations(vectors: np.ndarray, heads: int) -> np.ndarray:
    """softmax(A A^T / sqrt(d)) of one text's `[length, width]`, head by head."""
    parts = np.split(vectors, heads, axis=-1)
    return np.array([softmax(part @ part.T / np.sqrt(part.shape[-1]), axis=-1) for part in parts])


def reference(ours: np.ndarray, theirs: np.ndarray, heads: int) -> np.ndarray:
    """1 / (A_r |x|) · Σ over heads and tokens of KL(teacher || student), row by row, on real tokens alone."""
    rows = []
    for row, tokens in rows_of(MASK):
        p, q = relations(theirs[row, tokens], heads), relations(ours[row, tokens], heads)
        rows.append(float(np.sum(p * np.log(p / q))) / (heads * len(tokens)))
    return np.array(rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", [1, 2, 4, 12])
def test_relations_are_their_formula(name: str, heads: int) -> None:
    got = value(relation(name, heads=heads), SIGNALS[name], STUDENT, TEACHER, mask=MASK)
    np.testing.assert_allclose(got, reference(STUDENT[1], TEACHER[3], heads), atol=1e-14)


def test_relations_by_hand() -> None:
    """One head. The student's values (2,) and (0,) of width 1: softmax of (4, 0) and of (0, 0). The teacher's (2, 0,
    0, 0) and (0, 0, 0, 0) of width 4: softmax of (4, 0) / 2 and of (0, 0)."""
    ours, theirs = [np.array([[[2.0], [0.0]]])], [np.array([[[2.0, 0, 0, 0], [0, 0, 0, 0]]])]
    p, q = np.exp(2) / (1 + np.exp(2)), np.exp(4) / (1 + np.exp(4))
    wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) / 2
    assert value(relation(heads=1), "values", ours, theirs).tolist() == pytest.approx([wanted])


def test_the_divergence_is_the_students_from_the_teacher() -> None:
    wanted, swapped = reference(STUDENT[1], TEACHER[3], 4), reference(TEACHER[3], STUDENT[1], 4)
    assert np.abs(wanted - swapped)[:2].min() > 1e-2
    np.testing.assert_allclose(value(relation(), "values", STUDENT, TEACHER, mask=MASK), wanted, atol=1e-14)


@pytest.mark.parametrize(("ours", "theirs"), [(-1, -1), (0, 2), (1, -4), (-2, 3)])
def test_one_layer_learns_from_one(ours: int, theirs: int) -> None:
    loss = relation(student_layer=ours, teacher_layer=theirs)
    got = value(loss, "values", STUDENT, TEACHER, mask=MASK)
    np.testing.assert_allclose(got, reference(STUDENT[ours], TEACHER[theirs], 4), atol=1e-14)
    assert is_named(loss, "values", STUDENT, TEACHER) == [theirs % 4]


def test_the_last_layers_in_twelve_heads_are_compared_by_default() -> None:
    got = value(term("value_relation"), "values", STUDENT, TEACHER, mask=MASK)
    np.testing.assert_allclose(got, reference(STUDENT[-1], TEACHER[-1], 12), atol=1e-14)
    for heads in (0, -3):
        with pytest.raises(ValidationError):
            relation(heads=heads)


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_other_rows_do_not_matter(name: str) -> None:
    loss, signal = relation(name), SIGNALS[name]
    whole = value(loss, signal, STUDENT, TEACHER, mask=MASK)
    longer = [[np.concatenate([x, 9 * x], axis=1) for x in layers] for layers in (STUDENT, TEACHER)]
    torch.testing.assert_close(value(loss, signal, *longer, mask=np.pad(MASK, ((0, 0), (0, 5)))), whole)
    for row, tokens in rows_of(MASK):
        alone = [[x[row : row + 1, tokens] for x in layers] for layers in (STUDENT, TEACHER)]
        torch.testing.assert_close(value(loss, signal, *alone)[0], whole[row], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_student(name: str) -> None:
    def of(*layers: torch.Tensor) -> torch.Tensor:
        return value(relation(name), SIGNALS[name], layers, TEACHER, mask=MASK)

    assert gradients_are_right(of, *STUDENT)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_nothing_to_learn_from_itself(name: str) -> None:
    assert value(relation(name), SIGNALS[name], TEACHER, TEACHER, mask=MASK).tolist() == [0, 0, 0]


def test_a_turned_student_has_nothing_to_learn() -> None:
    """Relations are angles and lengths: they stay when a head's vectors are all turned together."""
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))
    turned = [np.concatenate([part @ turn for part in np.split(layer, 4, axis=-1)], axis=-1) for layer in TEACHER]
    got = value(relation(), "values", turned, TEACHER, mask=MASK)
    assert got.tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_half_precision_is_computed_with_in_float32() -> None:
    got = value(relation(), "values", STUDENT, TEACHER, mask=MASK, dtype=torch.bfloat16)
    rounded = [[torch.tensor(x).bfloat16().double().numpy() for x in layers] for layers in (STUDENT, TEACHER)]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), value(relation(), "values", *rounded, mask=MASK), atol=1e-6, rtol=1e-5)


def test_autocast_leaves_the_term_alone() -> None:
    wanted = value(relation(), "values", STUDENT, TEACHER, mask=MASK, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = value(relation(), "values", STUDENT, TEACHER, mask=MASK, dtype=torch.float32)
    torch.testing.assert_close(got, wanted)


def test_what_cannot_be_compared_is_said() -> None:
    assert problems(relation(heads=8), "values", STUDENT, TEACHER) == [
        "loss.terms.mine: relation_heads: 8 does not divide the widths of both the student (12) and the teacher (24); "
        "choose a divisor of 12"
    ]
    assert problems(relation(heads=24), "values", STUDENT, TEACHER) != []
    assert problems(relation(student_layer=2, teacher_layer=-5), "values", STUDENT, TEACHER) == [
        "loss.terms.mine: student_layer: 2 is out of range; the student has layers 0 to 1",
        "loss.terms.mine: teacher_layer: -5 is out of range; the teacher has layers 0 to 3",
    ]
    assert problems(relation(), "values", STUDENT, drawn(4, 3, 9, 24, seed=1)) == [
        "loss.terms.mine: value_relation compares position by position, but the student and the teacher have different "
        "ones ([3, 5, 12], [3, 9, 24])"
    ]
    [problem] = problems(relation(), "values", STUDENT, TEACHER, vocabulary="others")
    assert "different tokenizers" in problem
    assert problems(relation(), "values", STUDENT, TEACHER) == []


@pytest.mark.parametrize("name", NAMES)
def test_vectors_of_real_models_fit(name: str) -> None:
    """16 and 24 wide, of 4 and 2 attention heads."""
    for heads in (1, 2, 8):
        check_real_models(relation(name, heads=heads))


@pytest.mark.parametrize("name", NAMES)
def test_every_term_reads_its_own_vectors(name: str) -> None:
    """Of a real model, whose linears are called what they compute."""
    part = {"query_relation": "query", "key_relation": "key", "value_relation": "value"}[name]
    student, teacher = berts(heads=4)
    vectors = []
    for model in (student, teacher):
        linear = getattr(model.bert.encoder.layer[-1].attention.self, part)
        linear.register_forward_hook(lambda module, args, output: vectors.append(output.detach().numpy()))
    said = [Taps(model, {SIGNALS[name]})(texts()) for model in (student, teacher)]
    got = relation(name).loss(Batch(*said, mask=torch.from_numpy(MASK)))
    assert [vector.shape for vector in vectors] == [(len(LENGTHS), 5, 16), (len(LENGTHS), 5, 24)]
    np.testing.assert_allclose(got.detach(), reference(*vectors, 4), atol=1e-14)
