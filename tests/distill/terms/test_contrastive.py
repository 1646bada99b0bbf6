"""CRD against the paper's formula in NumPy, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdc.distill.terms.base import IGNORED, Batch, Term
from kdc.errors import KdcError
from kdc.models.taps import Outline
from tests.distill.terms import nets, processes
from tests.distill.terms.logit_terms import term

RNG = np.random.default_rng(13)
OURS, THEIRS = RNG.normal(size=(6, 3)), 4 * RNG.normal(size=(6, 5))
LABELS = np.array([0, 1, 0, 2, IGNORED, IGNORED])
PLAIN = {"dimension": 4, "same_label": True}


def head_of(loss: Term, ours: int = 3, theirs: int = 5) -> nn.ModuleDict:
    torch.manual_seed(0)
    outlines = (Outline("it", {"features": ((2, width),)}) for width in (ours, theirs))
    head = loss.head(*outlines)
    assert isinstance(head, nn.ModuleDict)
    return head.double()


def batch(ours: Any = OURS, theirs: Any = THEIRS, labels: Any = None, dtype: torch.dtype = torch.float64) -> Batch:
    sides = ({"features": torch.as_tensor(vectors).to(dtype)} for vectors in (ours, theirs))
    return Batch(*sides, labels=None if labels is None else torch.as_tensor(labels))


def value(labels: Any = None, ours: Any = OURS, theirs: Any = THEIRS, **settings: Any) -> float:
    loss = term("crd", **{"dimension": 4, **settings})
    return float(loss.loss(batch(ours, theirs, labels), head_of(loss)).detach())


def formula(
    negatives: list[list[int]], *, temperature: float = 0.07, cardinality: float | None = None, rows: int = 6
) -> float:
    head = head_of(term("crd", dimension=4))
    vectors = {}
    for model, features in (("student", OURS), ("teacher", THEIRS)):
        weight, bias = (parameter.detach().numpy() for parameter in head[model].parameters())
        led = features @ weight.T + bias
        vectors[model] = led / np.sqrt((led**2).sum(axis=1, keepdims=True))
    total = 0.0
    for i in range(rows):
        count = len(negatives[i])
        ratio = count / (count if cardinality is None else cardinality)

        def h(j: int, s: np.ndarray = vectors["student"][i], ratio: float = ratio) -> float:
            e = np.exp(vectors["teacher"][j] @ s / temperature)
            return e / (e + ratio)

        total -= np.log(h(i)) + sum(np.log(1 - h(j)) for j in negatives[i])
    return total / rows


ALL_OTHERS = [[j for j in range(6) if j != i] for i in range(6)]
OTHER_LABELS = [[1, 3, 4, 5], [0, 2, 3, 4, 5], [1, 3, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("cardinality", [None, 20, 50_000])
def test_is_its_formula(temperature: float, cardinality: int | None) -> None:
    settings = {"temperature": temperature, "cardinality": cardinality}
    assert value(same_label=True, **settings) == pytest.approx(formula(ALL_OTHERS, **settings))
    assert value(LABELS, same_label=False, **settings) == pytest.approx(formula(OTHER_LABELS, **settings))


def test_by_hand() -> None:
    """Two rows whose vectors are orthogonal and those of the teacher, τ = 1, M = N: h is 1/(1 + 1/e), and 1/2."""
    loss = term("crd", dimension=2, temperature=1, same_label=True)
    head = head_of(loss, 2, 2)
    for layer in head.values():
        layer.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    got = loss.loss(batch(np.eye(2), 3 * np.eye(2)), head).item()
    assert got == pytest.approx(np.log(1 + np.exp(-1)) + np.log(2))


def test_default_is_the_papers() -> None:
    loss = term("crd")
    assert loss == term("crd", dimension=128, temperature=0.07, same_label=False, cardinality=None)
    assert [tuple(p.shape) for p in head_of(loss).parameters()] == [(128, 3), (128,), (128, 5), (128,)]


def test_labels_are_needed_only_to_tell_negatives_apart() -> None:
    assert (term("crd").needs_labels, term("crd", same_label=True).needs_labels) == (True, False)
    same = [LABELS, None]
    assert value(same[0], same_label=True) == value(same[1], same_label=True)
    with pytest.raises(KdcError, match="crd: same_label=false needs one label a row; set same_label to true"):
        value(np.zeros((6, 2)), same_label=False)


def test_unlabelled_rows_are_all_negatives_of_one_another() -> None:
    assert value(np.full(6, IGNORED)) == pytest.approx(value(same_label=True))


def test_rows_without_a_negative_still_bring_their_own_two_vectors_together() -> None:
    for cardinality in (None, 10):
        alone = value(np.zeros(6, dtype=int), cardinality=cardinality)
        assert alone == pytest.approx(formula_of_positives(1 if cardinality is None else 1 / cardinality))
        assert np.isfinite(value([0], OURS[:1], THEIRS[:1], cardinality=cardinality))


def formula_of_positives(ratio: float) -> float:
    """-log h alone, with N counted as 1."""
    head, total = head_of(term("crd", dimension=4)), 0.0
    for ours, theirs in zip(OURS, THEIRS, strict=True):
        s, t = (head[m](torch.tensor(v)).detach().numpy() for m, v in (("student", ours), ("teacher", theirs)))
        e = np.exp(s @ t / np.linalg.norm(s) / np.linalg.norm(t) / 0.07)
        total -= np.log(e / (e + ratio))
    return total / 6


def test_vectors_count_by_their_direction() -> None:
    loss = term("crd", **PLAIN)
    head = head_of(loss)
    for layer in head.values():
        layer.bias.data.zero_()
    got = [loss.loss(batch(scale * OURS, THEIRS / scale), head).item() for scale in (1, 10)]
    assert got[0] == pytest.approx(got[1])


def test_gradients_reach_student_and_both_layers() -> None:
    loss = term("crd", **PLAIN, temperature=0.5, cardinality=20)
    head, start = head_of(loss), torch.tensor(OURS, requires_grad=True)
    names = [name for name, _ in head.named_parameters()]

    def of(features: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(Led(loss, head), {f"head.{k}": v for k, v in named.items()}, (features,))

    parameters = [parameter.detach().clone().requires_grad_() for parameter in head.parameters()]
    assert torch.autograd.gradcheck(of, (start, *parameters))


class Led(nn.Module):
    def __init__(self, loss: Term, head: nn.Module) -> None:
        super().__init__()
        self.loss, self.head = loss, head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.loss.loss(batch(features), self.head)


def test_half_precision_and_autocast_change_nothing_but_the_input() -> None:
    loss = term("crd", **PLAIN)
    head = head_of(loss).float()
    ours, theirs = (torch.tensor(vectors).bfloat16() for vectors in (OURS, THEIRS))
    wanted = loss.loss(batch(ours, theirs, dtype=torch.float32), head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = loss.loss(batch(ours, theirs, dtype=torch.bfloat16), head)
    for computed in (loss.loss(batch(ours, theirs, dtype=torch.bfloat16), head), autocast):
        assert computed.dtype == torch.float32
        torch.testing.assert_close(computed, wanted, rtol=0, atol=0)


def test_a_temperature_may_change_with_time_but_not_from_row_to_row() -> None:
    sharper = {"schedule": "linear", "start": 2.0, "end": 0.5}
    assert value(same_label=True, temperature=sharper) == pytest.approx(formula(ALL_OTHERS, temperature=2.0))
    with pytest.raises(ValidationError, match="cannot differ from row to row"):
        term("crd", temperature={"schedule": "confidence", "unsure": 1, "sure": 2})
    for settings in ({"temperature": 0}, {"dimension": 0}, {"cardinality": 0}):
        with pytest.raises(ValidationError):
            term("crd", **settings)


def test_features_must_be_one_vector_a_row() -> None:
    flat, deep = Outline("the student", {"features": ((2, 8),)}), Outline("the teacher", {"features": ((2, 5, 8),)})
    assert list(term("crd").problems(flat, flat)) == []
    wanted = "crd compares examples by a vector each, but the features of the teacher are [2, 5, 8]"
    assert list(term("crd").problems(flat, deep)) == [wanted]


@pytest.mark.parametrize("kind", ["cnn", "bert"])
def test_a_small_model_learns_from_a_larger_one_and_ships_alone(kind: str) -> None:
    if kind == "cnn":
        student, teacher, inputs = nets.cnn((4, 6)), nets.cnn((8, 12), hidden=16, seed=1), nets.pixels()
    else:
        student, teacher, inputs = nets.bert(layers=1), nets.bert(hidden_size=48, seed=1), nets.tokens()
    loss, own = term("crd", dimension=8), set(student.state_dict())
    assert nets.problems(loss, student, teacher) == []
    losses = nets.losses_of_training(loss, student, teacher, inputs, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert losses[-1] < 0.5 * losses[0]
    assert set(student.state_dict()) == own
    trained = nets.distiller(loss, student, teacher)
    widths = (10, 16) if kind == "cnn" else (32, 48)
    assert [tuple(p.shape) for p in trained.heads.parameters()] == [(8, widths[0]), (8,), (8, widths[1]), (8,)]


def test_two_processes_are_one_with_all_rows() -> None:
    processes.check(
        [
            term("crd", dimension=4, temperature=0.5),
            term("crd", dimension=4, temperature=0.5, same_label=True, cardinality=30),
        ]
    )
