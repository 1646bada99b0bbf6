"""Terms on attention maps against the equations of their papers in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdc.distill.terms.base import Batch
from kdc.models.taps import Taps
from tests.distill.terms.layered import (
    LENGTHS,
    MASK,
    Layers,
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

SIGNAL = "attentions"
DISTANCES = ("kl", "mse", "mse_scores")


def maps(layers: int, heads: int, *, seed: int, scale: float = 1.5) -> tuple[Layers, Layers]:
    """Scores, and the probabilities of them of texts of 5, 3 and 1 tokens: nobody attends to padding."""
    scores = [scale * layer for layer in drawn(layers, 3, heads, 5, 5, seed=seed)]
    return scores, [softmax(np.where(MASK[:, None, None], layer, -np.inf), axis=-1) for layer in scores]


STUDENT_SCORES, STUDENT = maps(2, 3, seed=1)
TEACHER_SCORES, TEACHER = maps(4, 3, seed=2)
MAPS = [("uniform", [(0, 1), (1, 3)]), ("top", [(0, 2), (1, 3)]), ("last", [(1, 3)]), ([[1, 0]], [(1, 0)])]
EVERY = [term("attention", distance=distance, heads=heads) for distance in DISTANCES for heads in ("each", "mean")]
NAMES = [f"{loss.distance}-{loss.heads}" for loss in EVERY]  # type: ignore[attr-defined]


def reference(distance: str, pairs: Any, student: Layers, teacher: Layers, *, heads: str = "each") -> np.ndarray:
    """Row by row of a batch, head by head, on matrices of real tokens alone."""
    values = []
    for row, tokens in rows_of(MASK):
        value = 0.0
        for i, j in pairs:
            ours, theirs = (layer[row][:, tokens][:, :, tokens] for layer in (student[i], teacher[j]))
            if distance == "mse_scores":  # softmax does not see a constant added to all scores of a token
                ours, theirs = (scores - scores.mean(axis=-1, keepdims=True) for scores in (ours, theirs))
            if heads == "mean":
                ours, theirs = ours.mean(axis=0)[None], theirs.mean(axis=0)[None]
            if distance == "kl":
                value += np.sum(theirs * np.log(theirs / ours)) / (len(ours) * len(tokens))
            else:
                value += sum(np.mean((a - b) ** 2) for a, b in zip(ours, theirs, strict=True)) / len(ours)
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize(("layer_map", "pairs"), MAPS)
@pytest.mark.parametrize("heads", ["each", "mean"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_attention_is_its_formula(distance: str, heads: str, layer_map: Any, pairs: Any) -> None:
    loss = term("attention", distance=distance, layer_map=layer_map, heads=heads)
    of = (STUDENT_SCORES, TEACHER_SCORES) if distance == "mse_scores" else (STUDENT, TEACHER)
    wanted = reference(distance, pairs, *of, heads=heads)
    np.testing.assert_allclose(value(loss, SIGNAL, STUDENT, TEACHER, mask=MASK), wanted, atol=1e-14)


def test_attention_by_hand() -> None:
    """One head, two tokens: the teacher attends (1/2, 1/2) twice, the student (3/4, 1/4) and (1/2, 1/2).

    KL: ln(4/3) / 2 and 0, on average ln(4/3) / 4. MSE: 1/16, 1/16, 0, 0, on average 1/32. Scores less their mean:
    ln 3 / 2 and -ln 3 / 2 against 0, on average (ln 3)² / 8.
    """
    ours, theirs = [np.array([[[[0.75, 0.25], [0.5, 0.5]]]])], [np.array([[[[0.5, 0.5], [0.5, 0.5]]]])]
    for distance, wanted in (("kl", np.log(4 / 3) / 4), ("mse", 1 / 32), ("mse_scores", np.log(3) ** 2 / 8)):
        got = value(term("attention", distance=distance), SIGNAL, ours, theirs)
        assert got.tolist() == pytest.approx([wanted])


def test_the_divergence_is_the_students_from_the_teacher() -> None:
    loss = term("attention", distance="kl", layer_map="last")
    wanted = reference("kl", [(1, 3)], STUDENT, TEACHER)
    swapped = reference("kl", [(1, 1)], [TEACHER[3]] * 2, STUDENT)
    assert np.abs(wanted - swapped)[:2].min() > 1e-2
    np.testing.assert_allclose(value(loss, SIGNAL, STUDENT, TEACHER, mask=MASK), wanted, atol=1e-14)


def test_averages_over_heads_compare_models_with_different_numbers_of_them() -> None:
    _, six = maps(4, 6, seed=5)
    for distance in ("kl", "mse"):
        loss = term("attention", distance=distance, heads="mean", layer_map="last")
        wanted = reference(distance, [(1, 3)], STUDENT, six, heads="mean")
        np.testing.assert_allclose(value(loss, SIGNAL, STUDENT, six, mask=MASK), wanted, atol=1e-14)


@pytest.mark.parametrize("loss", EVERY, ids=NAMES)
def test_padding_and_other_rows_do_not_matter(loss: Any) -> None:
    whole = value(loss, SIGNAL, STUDENT, TEACHER, mask=MASK)
    wider = ((0, 0), (0, 0), (0, 0), (0, 4))  # nobody attends to padding, which attends to anything
    longer = [
        [np.concatenate([np.pad(x, wider), np.full((3, 3, 4, 9), 1 / (9 + i))], axis=2) for i, x in enumerate(layers)]
        for layers in (STUDENT, TEACHER)
    ]
    padded = value(loss, SIGNAL, *longer, mask=np.pad(MASK, ((0, 0), (0, 4))))
    torch.testing.assert_close(padded, whole)
    for row, tokens in rows_of(MASK):
        alone = [[x[row : row + 1][:, :, tokens][..., tokens] for x in layers] for layers in (STUDENT, TEACHER)]
        torch.testing.assert_close(value(loss, SIGNAL, *alone)[0], whole[row])


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_a_decoder_does_not_see_yet_adds_nothing(distance: str) -> None:
    """Scores of later tokens, which no probability tells of, do not count among the scores; the others do."""
    later = np.triu(np.ones((5, 5), dtype=bool), k=1)
    both = [[np.where(later, -np.inf, layer) for layer in layers] for layers in (STUDENT_SCORES, TEACHER_SCORES)]
    ours, theirs = ([softmax(layer, axis=-1) for layer in layers] for layers in both)
    loss = term("attention", distance=distance, layer_map="last")
    got = value(loss, SIGNAL, ours, theirs)
    assert bool(torch.isfinite(got).all())
    if distance == "mse_scores":
        differences = np.where(later, 0, STUDENT_SCORES[1] - TEACHER_SCORES[3])
        differences -= differences.sum(axis=-1, keepdims=True) / (~later).sum(axis=-1, keepdims=True)
        wanted = (differences**2)[..., ~later].mean(axis=(1, 2))
        np.testing.assert_allclose(got, wanted)


@pytest.mark.parametrize("loss", EVERY, ids=NAMES)
def test_gradients_reach_the_student(loss: Any) -> None:
    """Through the softmax of the student's scores, as a model has it."""

    def of(*scores: torch.Tensor) -> torch.Tensor:
        keys = torch.from_numpy(MASK)[:, None, None]
        return value(
            loss, SIGNAL, [layer.masked_fill(~keys, -torch.inf).softmax(-1) for layer in scores], TEACHER, mask=MASK
        )

    assert gradients_are_right(of, *STUDENT_SCORES)


@pytest.mark.parametrize("loss", EVERY, ids=NAMES)
def test_a_probability_of_zero_is_survived(loss: Any) -> None:
    """Half precision has no number for the least of them."""
    ours = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], requires_grad=True)
    theirs = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])
    loss.loss(Batch({SIGNAL: (ours,)}, {SIGNAL: (theirs,)})).sum().backward()
    assert ours.grad is not None
    assert bool(torch.isfinite(ours.grad).all())


@pytest.mark.parametrize("loss", EVERY, ids=NAMES)
def test_a_model_has_nothing_to_learn_from_itself(loss: Any) -> None:
    assert value(loss, SIGNAL, TEACHER, TEACHER, mask=MASK).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("layer_map", "layers"), [("uniform", [1, 3]), ("last", [3]), ([[0, 2], [1, 2]], [2])])
def test_the_layers_that_are_named_are_those_that_are_read(layer_map: Any, layers: list[int]) -> None:
    assert is_named(term("attention", layer_map=layer_map), SIGNAL, STUDENT, TEACHER) == layers


@pytest.mark.parametrize("loss", EVERY, ids=NAMES)
def test_half_precision_is_computed_with_in_float32(loss: Any) -> None:
    got = value(loss, SIGNAL, STUDENT, TEACHER, mask=MASK, dtype=torch.bfloat16)
    rounded = [[torch.tensor(x).bfloat16().double().numpy() for x in layers] for layers in (STUDENT, TEACHER)]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), value(loss, SIGNAL, *rounded, mask=MASK), atol=1e-6, rtol=1e-5)


def test_what_cannot_be_compared_is_said() -> None:
    _, two = maps(4, 2, seed=5)
    assert problems(term("attention"), SIGNAL, STUDENT, two) == [
        "loss.terms.mine: heads: the student has 3 in layer 0, the teacher has 2 in layer 1; compare their averages "
        "with heads: mean, or relations, which need no equal heads"
    ]
    assert problems(term("attention", heads="mean"), SIGNAL, STUDENT, two) == []
    assert problems(term("attention"), SIGNAL, TEACHER, STUDENT) == [
        "loss.terms.mine: layer_map: uniform needs a teacher with as many layers as the student (2 < 4); choose last, "
        "or name the pairs"
    ]
    assert problems(term("attention", layer_map="last"), SIGNAL, TEACHER, STUDENT) == []
    longer = drawn(4, 3, 3, 9, 9, seed=1)
    assert problems(term("attention"), SIGNAL, STUDENT, longer) == [
        "loss.terms.mine: attention compares position by position, but the student and the teacher have different ones "
        "([3, 3, 5, 5], [3, 3, 9, 9])"
    ]
    [problem] = problems(term("attention"), SIGNAL, STUDENT, TEACHER, vocabulary="others")
    assert "different tokenizers" in problem


@pytest.mark.parametrize("loss", EVERY, ids=NAMES)
def test_attentions_of_real_models_fit(loss: Any) -> None:
    check_real_models(loss)


def test_scores_are_those_of_queries_and_keys() -> None:
    """TinyBERT's own, Q K^T / sqrt(d_k) of two BERTs with 2 heads, less what softmax does not see."""
    said = [Taps(model, {SIGNAL, "queries", "keys"})(texts()) for model in berts()]
    pairs, wanted = [(0, 1), (1, 3)], []
    for row, length in enumerate(LENGTHS):
        values = []
        for pair in pairs:
            centred = []
            for signals, layer in zip(said, pair, strict=True):
                queries, keys = (
                    signals[name][layer][row, :length].unflatten(-1, (2, -1)).transpose(0, 1).detach().numpy()
                    for name in ("queries", "keys")
                )
                scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(queries.shape[-1])
                centred.append(scores - scores.mean(axis=-1, keepdims=True))
            values.append(np.mean((centred[0] - centred[1]) ** 2))
        wanted.append(sum(values))
    loss = term("attention", distance="mse_scores")
    got = loss.loss(Batch(*said, mask=torch.from_numpy(MASK)))
    np.testing.assert_allclose(got.detach(), wanted, atol=1e-12)
