"""Terms on hidden states against the equations of their papers in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.terms.features import STATES, PatientKD
from tests.distill.terms.layered import (
    MASK,
    check_real_models,
    drawn,
    gradients_are_right,
    head_of,
    is_named,
    problems,
    rows_of,
    term,
    value,
)

STUDENT, TEACHER = drawn(3, 3, 5, 4, seed=1), drawn(5, 3, 5, 6, seed=2)
"""Embeddings and two layers, 4 wide; embeddings and four layers, 6 wide."""
WIDE = drawn(3, 3, 5, 6, seed=3)
"""A student as wide as the teacher."""
HIDDEN = [term("hidden", distance=distance) for distance in ("mse", "cosine")]
EVERY = [*HIDDEN, term("embeddings"), term("pkd")]


def names(terms: list[Any]) -> list[str]:
    return [f"{one.name}-{getattr(one, 'distance', '')}".rstrip("-") for one in terms]


def reference(distance: Any, pairs: list[tuple[int, int]], student: Any, matrices: list[np.ndarray]) -> np.ndarray:
    """Row by row: the sum over pairs of layers of the mean over real tokens of `distance(student's, teacher's)`."""
    rows = []
    for row, tokens in rows_of(MASK):
        layers = [
            np.mean([distance(matrix @ student[i][row, t], TEACHER[j][row, t]) for t in tokens])
            for (i, j), matrix in zip(pairs, matrices, strict=True)
        ]
        rows.append(sum(layers))
    return np.array(rows)


def mse(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.mean((ours - theirs) ** 2))


def one_less_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(1 - ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)))


def unit_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sum((ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)) ** 2))


def weights(head: Any) -> list[np.ndarray]:
    return [linear.weight.detach().numpy() for linear in head.maps]


MAPS = [
    ("uniform", [(1, 2), (2, 4)]),
    ("top", [(1, 3), (2, 4)]),
    ("bottom", [(1, 1), (2, 2)]),
    ("last", [(2, 4)]),
    ([[0, 3], [1, 3]], [(1, 4), (2, 4)]),
]


@pytest.mark.parametrize(("layer_map", "pairs"), MAPS)
@pytest.mark.parametrize(("distance", "formula"), [("mse", mse), ("cosine", one_less_cosine)])
def test_hidden_is_its_formula_through_a_projection_of_every_pair(
    distance: str, formula: Any, layer_map: Any, pairs: list[tuple[int, int]]
) -> None:
    loss = term("hidden", distance=distance, layer_map=layer_map)
    head = head_of(loss, STATES, STUDENT, TEACHER)
    got = value(loss, STATES, STUDENT, TEACHER, mask=MASK, head=head)
    np.testing.assert_allclose(got.detach(), reference(formula, pairs, STUDENT, weights(head)))


@pytest.mark.parametrize(("distance", "formula"), [("mse", mse), ("cosine", one_less_cosine)])
def test_hidden_of_equal_widths_is_compared_as_it_is(distance: str, formula: Any) -> None:
    loss = term("hidden", distance=distance, layer_map="last")
    head = head_of(loss, STATES, WIDE, TEACHER)
    assert head is not None
    assert list(head.parameters()) == []
    got = value(loss, STATES, WIDE, TEACHER, mask=MASK, head=head)
    np.testing.assert_allclose(got, reference(formula, [(2, 4)], WIDE, [np.eye(6)]))


def test_hidden_by_hand() -> None:
    """Two layers of one token: mean of 1² and 3², and of 0 and 2²: 5 and 2. Cosines of (3, 4) with (4, 3) and (-3, -4)
    are 24/25 and -1."""
    ours, theirs = [[[[1.0, 1.0]]]] * 3, [[[[9.0, 9.0]]], [[[0.0, 4.0]]], [[[1.0, 3.0]]]]
    loss = term("hidden")
    states = [[np.array(layer) for layer in layers] for layers in (ours, theirs)]
    assert value(loss, STATES, *states, head=head_of(loss, STATES, *states)).tolist() == [7.0]
    loss = term("hidden", distance="cosine")
    ours, theirs = [[[[3.0, 4.0]]]] * 3, [[[[9.0, 9.0]]], [[[4.0, 3.0]]], [[[-3.0, -4.0]]]]
    states = [[np.array(layer) for layer in layers] for layers in (ours, theirs)]
    got = value(loss, STATES, *states, head=head_of(loss, STATES, *states))
    assert got.tolist() == pytest.approx([1 / 25 + 2])


def test_embeddings_are_tinyberts_equation_9() -> None:
    loss = term("embeddings")
    head = head_of(loss, STATES, STUDENT, TEACHER)
    got = value(loss, STATES, STUDENT, TEACHER, mask=MASK, head=head)
    np.testing.assert_allclose(got.detach(), reference(mse, [(0, 0)], STUDENT, weights(head)))


def test_pkd_is_equation_7_of_the_first_tokens() -> None:
    deep = drawn(4, 3, 5, 4, seed=4)
    loss = term("pkd")
    head = head_of(loss, STATES, deep, TEACHER)
    first, second = weights(head)
    wanted = [
        unit_distance(first @ deep[1][row, 0], TEACHER[2][row, 0])
        + unit_distance(second @ deep[2][row, 0], TEACHER[3][row, 0])
        for row in range(3)
    ]
    np.testing.assert_allclose(value(loss, STATES, deep, TEACHER, mask=MASK, head=head).detach(), wanted)


def test_pkd_by_hand() -> None:
    """Of (3, 4) and (5, 0), both of length 1 as (0.6, 0.8) and (1, 0): 0.16 + 0.64."""
    states = [[np.array([[token, [7.0, 7.0]]]) for token in [[3.0, 4.0]] * 3], [np.array([[[5.0, 0.0], [1, 1]]])] * 3]
    loss = term("pkd")
    assert value(loss, STATES, *states, head=head_of(loss, STATES, *states)).tolist() == pytest.approx([0.8])


@pytest.mark.parametrize(
    ("layer_map", "student", "learns"),
    [
        ("uniform", 6, [2, 4, 6, 8, 10]),
        ("top", 6, [7, 8, 9, 10, 11]),
        ("uniform", 3, [4, 8]),
        ("top", 3, [10, 11]),
        ([[2, 11]], 3, [12]),
    ],
)
def test_pkd_leaves_the_last_layer_out_as_the_paper_does(layer_map: Any, student: int, learns: list[int]) -> None:
    """PKD-Skip and PKD-Last of a teacher of 12 layers, counted from 1; what is named is taken as it is."""
    pairs = PatientKD(name="pkd", layer_map=layer_map).pairs([None] * (student + 1), [None] * 13)
    assert [theirs for _, theirs in pairs] == learns
    assert [ours for ours, _ in pairs] == ([3] if isinstance(layer_map, list) else list(range(1, student)))


def test_a_linear_leads_from_the_students_width_to_the_teachers_one_for_every_pair() -> None:
    for loss, linears in zip(EVERY, (2, 2, 1, 1), strict=True):
        head = head_of(loss, STATES, STUDENT, TEACHER)
        assert head is not None
        assert [tuple(p.shape) for p in head.parameters()] == [(6, 4)] * linears


@pytest.mark.parametrize("loss", EVERY, ids=names(EVERY))
def test_padding_and_other_rows_do_not_matter(loss: Any) -> None:
    head = head_of(loss, STATES, STUDENT, TEACHER)
    whole = value(loss, STATES, STUDENT, TEACHER, mask=MASK, head=head)
    longer = [[np.concatenate([x, 9 + x], axis=1) for x in layers] for layers in (STUDENT, TEACHER)]
    padded = value(loss, STATES, *longer, mask=np.pad(MASK, ((0, 0), (0, 5))), head=head)
    torch.testing.assert_close(padded, whole)
    for row, tokens in rows_of(MASK):
        alone = [[x[row : row + 1, tokens] for x in layers] for layers in (STUDENT, TEACHER)]
        torch.testing.assert_close(value(loss, STATES, *alone, head=head)[0], whole[row])


@pytest.mark.parametrize("loss", EVERY, ids=names(EVERY))
def test_gradients_reach_the_student_and_the_projections(loss: Any) -> None:
    matrices = weights(head_of(loss, STATES, STUDENT, TEACHER))

    def of(*inputs: torch.Tensor) -> torch.Tensor:
        def project(index: int, states: torch.Tensor) -> torch.Tensor:
            return states @ inputs[3 + index].T

        return value(loss, STATES, inputs[:3], TEACHER, mask=MASK, head=project)

    assert gradients_are_right(of, *STUDENT, *matrices)


@pytest.mark.parametrize("loss", EVERY, ids=names(EVERY))
def test_a_model_has_nothing_to_learn_from_itself(loss: Any) -> None:
    head = head_of(loss, STATES, TEACHER, TEACHER)
    got = value(loss, STATES, TEACHER, TEACHER, mask=MASK, head=head)
    torch.testing.assert_close(got, torch.zeros_like(got), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("loss", "layers"),
    [
        (term("hidden"), [2, 4]),
        (term("hidden", layer_map="last"), [4]),
        (term("hidden", layer_map=[[0, 3], [1, 3]]), [4]),
        (term("embeddings"), [0]),
        (term("pkd"), [2]),
        (term("pkd", layer_map="bottom"), [1]),
    ],
)
def test_the_layers_that_are_named_are_those_that_are_read(loss: Any, layers: list[int]) -> None:
    head = head_of(loss, STATES, STUDENT, TEACHER)
    assert is_named(loss, STATES, STUDENT, TEACHER, head) == layers


@pytest.mark.parametrize("loss", EVERY, ids=names(EVERY))
def test_half_precision_is_computed_with_in_float32(loss: Any) -> None:
    head = head_of(loss, STATES, STUDENT, TEACHER)
    assert head is not None
    got = value(loss, STATES, STUDENT, TEACHER, mask=MASK, head=head.float(), dtype=torch.bfloat16)
    assert got.dtype == torch.float32
    rounded = [[torch.tensor(x).bfloat16().double().numpy() for x in layers] for layers in (STUDENT, TEACHER)]
    torch.testing.assert_close(got.double(), value(loss, STATES, *rounded, mask=MASK, head=head.double()))


@pytest.mark.parametrize("loss", EVERY, ids=names(EVERY))
def test_autocast_leaves_the_term_alone(loss: Any) -> None:
    head = head_of(loss, STATES, STUDENT, TEACHER)
    assert head is not None
    wanted = value(loss, STATES, STUDENT, TEACHER, mask=MASK, head=head.float(), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = value(loss, STATES, STUDENT, TEACHER, mask=MASK, head=head, dtype=torch.float32)
    torch.testing.assert_close(got, wanted)


def test_states_of_plain_nets_have_no_tokens() -> None:
    ours, theirs = drawn(3, 4, 6, seed=5), drawn(3, 4, 6, seed=6)
    loss = term("hidden", layer_map="last")
    assert problems(loss, STATES, ours, theirs) == []
    got = value(loss, STATES, ours, theirs, head=head_of(loss, STATES, ours, theirs))
    np.testing.assert_allclose(got, ((ours[2] - theirs[2]) ** 2).mean(axis=1))


def test_first_tokens_are_compared_across_tokenizers_but_nothing_else() -> None:
    longer = drawn(5, 3, 8, 6, seed=7)
    assert problems(term("pkd"), STATES, STUDENT, longer, vocabulary="others") == []
    loss = term("pkd")
    head = head_of(loss, STATES, STUDENT, longer)
    same = [layer[:, :5] for layer in longer]
    torch.testing.assert_close(
        value(loss, STATES, STUDENT, longer, mask=MASK, head=head), value(loss, STATES, STUDENT, same, head=head)
    )
    for name in ("hidden", "embeddings"):
        [problem] = problems(term(name), STATES, STUDENT, TEACHER, vocabulary="others")
        assert "different tokenizers" in problem


def test_what_cannot_be_compared_is_said() -> None:
    deep, maps = drawn(9, 3, 5, 6, seed=8), drawn(3, 3, 6, 8, 8, seed=9)
    assert problems(term("hidden"), STATES, deep, TEACHER) == [
        "loss.terms.mine: layer_map: uniform needs a teacher with as many layers as the student (4 < 8); choose last, "
        "or name the pairs"
    ]
    assert problems(term("hidden", layer_map=[[1, 4]]), STATES, STUDENT, TEACHER) == [
        "loss.terms.mine: layer_map: [1, 4] is out of range; the student has layers 0 to 1, the teacher 0 to 3"
    ]
    assert problems(term("hidden"), STATES, STUDENT, maps) == [
        "loss.terms.mine: hidden compares hidden states of texts, but those of the teacher are [3, 6, 8, 8]"
    ]
    assert problems(term("embeddings"), STATES, maps, TEACHER) == [
        "loss.terms.mine: embeddings compares hidden states of texts, but those of the student are [3, 6, 8, 8]"
    ]
    assert problems(term("hidden"), STATES, STUDENT, drawn(3, 3, 9, 6, seed=1)) == [
        "loss.terms.mine: hidden compares position by position, but the hidden states of the student and the teacher "
        "have different ones ([3, 5, 4], [3, 9, 6])"
    ]
    assert problems(term("pkd", layer_map="last"), STATES, STUDENT, TEACHER) == [
        "loss.terms.mine: layer_map: last leaves no layer to compare, since pkd leaves the student's last one out; "
        "name the pairs, or switch it off"
    ]
    flat = drawn(3, 4, 6, seed=5)
    assert problems(term("pkd"), STATES, flat, flat) == [
        "loss.terms.mine: pkd compares hidden states of texts, but those of the student are [4, 6]"
    ]
    for loss in EVERY:
        assert problems(loss, STATES, STUDENT, TEACHER) == []


@pytest.mark.parametrize("loss", EVERY, ids=names(EVERY))
def test_hidden_states_of_real_models_fit(loss: Any) -> None:
    check_real_models(loss)
