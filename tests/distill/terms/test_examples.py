"""Relations between examples against the papers' formulas in NumPy, pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.terms.base import TERMS, Batch
from kdc.models.taps import Outline
from tests.distill.terms import nets, processes
from tests.distill.terms.logit_terms import term

RNG = np.random.default_rng(11)
OURS, THEIRS = RNG.normal(size=(5, 3)), 4 * RNG.normal(size=(5, 6))
OF_FEATURES = ("rkd_distance", "rkd_angle", "similarity")
NAMES = (*OF_FEATURES, "map_similarity")


def batch(ours: Any, theirs: Any, dtype: torch.dtype = torch.float64) -> Batch:
    """Vectors as features; as feature maps of one place too, which as vectors are the same."""
    sides = (torch.as_tensor(vectors).to(dtype) for vectors in (ours, theirs))
    return Batch(*({"features": each, "hidden_states": (None, each[:, :, None, None])} for each in sides))


def value(name: str, ours: Any = OURS, theirs: Any = THEIRS, **more: Any) -> float:
    found = term(name).loss(batch(ours, theirs, **more))
    assert found.ndim == 0
    return float(found)


def huber(x: float, y: float) -> float:
    return (x - y) ** 2 / 2 if abs(x - y) <= 1 else abs(x - y) - 1 / 2


def distances(vectors: np.ndarray) -> dict[tuple[int, ...], float]:
    """ψ_D of every pair."""
    found = {(i, j): float(np.linalg.norm(vectors[i] - vectors[j])) for i, j in permutations(range(len(vectors)), 2)}
    mean = np.mean(list(found.values()))
    return {pair: distance / mean for pair, distance in found.items()}


def angles(vectors: np.ndarray) -> dict[tuple[int, ...], float]:
    """ψ_A of every triplet: the cosine at the second."""
    found = {}
    for i, j, k in permutations(range(len(vectors)), 3):
        to_i, to_k = vectors[i] - vectors[j], vectors[k] - vectors[j]
        found[i, j, k] = float(to_i @ to_k / np.linalg.norm(to_i) / np.linalg.norm(to_k))
    return found


def relational(relation: Callable[..., dict[tuple[int, ...], float]], ours: np.ndarray, theirs: np.ndarray) -> float:
    student, teacher = relation(ours), relation(theirs)
    return float(np.mean([huber(student[tuple_], teacher[tuple_]) for tuple_ in student]))


def similarity(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Rows of the products' matrix of length 1, one after the other."""
    total = 0.0
    for i in range(len(ours)):
        mine, other = ([float(vector @ vectors[i]) for vector in vectors] for vectors in (ours, theirs))
        total += ((mine / np.linalg.norm(mine) - other / np.linalg.norm(other)) ** 2).sum()
    return total / len(ours) ** 2


WANTED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "rkd_distance": lambda ours, theirs: relational(distances, ours, theirs),
    "rkd_angle": lambda ours, theirs: relational(angles, ours, theirs),
    "similarity": similarity,
    "map_similarity": similarity,
}


@pytest.mark.parametrize("name", NAMES)
def test_is_its_formula(name: str) -> None:
    assert value(name) == pytest.approx(WANTED[name](OURS, THEIRS), rel=1e-9)
    far = OURS.copy()
    far[0] += 50  # where the difference is above 1, too
    assert value(name, far) == pytest.approx(WANTED[name](far, THEIRS), rel=1e-9)


def test_distances_by_hand() -> None:
    """Points at 0, 1 and 3 of a line, mean distance 2, against an equilateral triangle, where all are 1."""
    line, triangle = np.array([[0.0], [1.0], [3.0]]), np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    assert value("rkd_distance", line, triangle) == pytest.approx((0.5**2 + 0**2 + 0.5**2) / 2 / 3)


def test_distances_are_relative_to_each_models_own_mean() -> None:
    far = OURS.copy()
    far[0] += 50
    relative = distances(far)
    assert max(relative.values()) - min(relative.values()) > 2
    for name in OF_FEATURES:
        assert value(name, OURS, 7 * OURS) == pytest.approx(0, abs=1e-12)


def test_angles_by_hand() -> None:
    """A right triangle with two equal sides: cosines 0, 1/√2, 1/√2; of an equilateral one: 1/2 each."""
    right, equal = np.array([[0.0, 0], [1, 0], [0, 1]]), np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    wanted = (0.5**2 + 2 * (np.sqrt(0.5) - 0.5) ** 2) / 2 / 3
    assert value("rkd_angle", right, equal) == pytest.approx(wanted)


def test_similarity_by_hand() -> None:
    """Orthogonal against equal examples: rows (1, 0), (0, 1) and (1, 1)/√2 twice."""
    wanted = 2 * ((1 - np.sqrt(0.5)) ** 2 + 0.5) / 4
    assert value("similarity", np.eye(2), np.ones((2, 1))) == pytest.approx(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_turned_and_mirrored_vectors_are_related_alike(name: str) -> None:
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    assert value(name, OURS, OURS @ turn) == pytest.approx(0, abs=1e-12)
    assert value(name) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_makes_no_difference_but_mixing_them_up_does(name: str) -> None:
    order = np.array([3, 1, 4, 0, 2])
    assert value(name, OURS[order], THEIRS[order]) == pytest.approx(value(name))
    assert abs(value(name, OURS[order], THEIRS) - value(name)) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    start = torch.tensor(OURS, requires_grad=True)
    assert torch.autograd.gradcheck(lambda vectors: term(name).loss(batch(vectors, THEIRS)), start)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_down_its_gradient_brings_the_student_nearer(name: str) -> None:
    start = torch.tensor(OURS, requires_grad=True)
    [gradient] = torch.autograd.grad(term(name).loss(batch(start, THEIRS)), start)
    assert value(name, (start - 1e-3 * gradient).detach()) < value(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_have_no_relation(name: str, rows: int) -> None:
    """The last batch of an epoch may have a single row."""
    start = torch.tensor(OURS[:rows], requires_grad=True)
    loss = term(name).loss(batch(start, THEIRS[:rows]))
    [gradient] = torch.autograd.grad(loss, start)
    assert gradient.isfinite().all()
    if rows == 1 or name.startswith("rkd"):  # of two points the only distance is the mean one
        assert loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_examples_that_coincide_and_dead_features_have_finite_gradients(name: str) -> None:
    for vectors in (OURS[[0, 0, 1, 2, 2]], np.vstack([OURS[:3], np.zeros((2, 3))]), np.zeros((5, 3))):
        start = torch.tensor(vectors, requires_grad=True)
        loss = term(name).loss(batch(start, THEIRS))
        [gradient] = torch.autograd.grad(loss, start)
        assert loss.isfinite()
        assert gradient.abs().max() < 100


def test_distances_of_many_neighbours_are_exact() -> None:
    """By inner products, as is usual for more than 25 rows, they would be off by a hundredth."""
    near = 1000 + RNG.normal(size=(40, 3))
    assert value("rkd_distance", near, near + 0.5, dtype=torch.float32) < 1e-8
    assert value("rkd_distance", near - 1000, near, dtype=torch.float32) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_autocast_change_nothing_but_the_input(name: str) -> None:
    ours, theirs = (torch.tensor(vectors).bfloat16() for vectors in (OURS, THEIRS))
    wanted = term(name).loss(batch(ours, theirs, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = term(name).loss(batch(ours, theirs, torch.bfloat16))
    for computed in (term(name).loss(batch(ours, theirs, torch.bfloat16)), autocast):
        assert computed.dtype == torch.float32
        torch.testing.assert_close(computed, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_features_must_be_one_vector_a_row(name: str) -> None:
    flat, deep = Outline("the student", {"features": ((2, 8),)}), Outline("the teacher", {"features": ((2, 5, 8),)})
    assert list(term(name).problems(flat, flat)) == []
    assert list(term(name).problems(flat, deep)) == [
        f"{name} compares examples by a vector each, but the features of the teacher are [2, 5, 8]"
    ]


def test_a_feature_map_is_one_vector_of_all_its_channels_and_places() -> None:
    ours, theirs = RNG.normal(size=(5, 3, 2, 2)), RNG.normal(size=(5, 4, 3, 1))
    sides = ({"hidden_states": (None, torch.tensor(maps))} for maps in (ours, theirs))
    wanted = similarity(ours.reshape(5, -1), theirs.reshape(5, -1))
    assert term("map_similarity").loss(Batch(*sides)).item() == pytest.approx(wanted)


def test_maps_are_compared_by_the_last_of_each_and_texts_have_none() -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((4, 8, 5), seed=1)
    nets.check_layers(term("map_similarity"), student, teacher, nets.pixels(), [3])
    assert nets.problems(term("map_similarity"), student, teacher) == []
    problems = nets.problems(term("map_similarity"), nets.bert(), nets.bert())
    assert len(problems) == 2
    assert "map_similarity compares feature maps" in problems[0]


@pytest.mark.parametrize("name", NAMES)
def test_weights_cannot_differ_from_row_to_row(name: str) -> None:
    by_confidence = TERMS[name].model_validate(
        {"name": name, "weight": {"schedule": "confidence", "unsure": 0, "sure": 1}}
    )
    assert any("no mean over rows" in line for line in nets.problems(by_confidence, nets.cnn(), nets.cnn()))


@pytest.mark.parametrize("name", NAMES)
def test_a_small_net_learns_from_a_larger_one(name: str) -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((8, 12), hidden=16, seed=1)
    losses = nets.losses_of_training(term(name), student, teacher, nets.pixels())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_small_encoder_learns_from_a_wider_one(name: str) -> None:
    student, teacher = nets.bert(layers=1), nets.bert(hidden_size=48, seed=1)
    assert nets.problems(term(name), student, teacher) == []
    losses = nets.losses_of_training(term(name), student, teacher, nets.tokens())
    assert losses[-1] < 0.8 * losses[0]


def test_two_processes_are_one_with_all_rows() -> None:
    processes.check([term(name) for name in NAMES])
