"""Matching gradients: against derivatives worked out by hand, and on real models that are differentiated twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdc.distill.terms.base import Batch, all_problems
from kdc.models.taps import Outline
from tests.distill.terms import nets
from tests.distill.terms.logit_terms import term

RNG = np.random.default_rng(17)
ROWS, LENGTH, WIDTH, CLASSES = 3, 4, 5, 3
EMBEDDINGS = RNG.normal(size=(ROWS, LENGTH, WIDTH))
WEIGHTS = RNG.normal(size=(CLASSES, LENGTH, WIDTH))
TEACHERS_LOGITS = np.array([[0.0, 2, 1], [3, 1, 2], [0, 1, 4]])
TEACHERS_GRADIENTS = RNG.normal(size=(ROWS, LENGTH, WIDTH))
MASK = np.array([[True] * 4, [True, True, True, False], [True, False, False, False]])
COMPARE = pytest.mark.parametrize("compare", ["gradient", "norm"])


def batch(weights: Any = WEIGHTS, theirs: Any = TEACHERS_GRADIENTS, *, mask: np.ndarray | None = None) -> Batch:
    """A student whose logits are z_c = Σ W_c · tanh(e), so that dz_c/de = W_c · (1 - tanh²(e))."""
    embeddings = torch.tensor(EMBEDDINGS, requires_grad=True)
    logits = torch.einsum("clw,rlw->rc", torch.as_tensor(weights), embeddings.tanh())
    teacher = {"logits": torch.tensor(TEACHERS_LOGITS), "input_gradients": torch.as_tensor(theirs)}
    student = {"logits": logits, "input_embeddings": embeddings}
    return Batch(student, teacher, mask=None if mask is None else torch.tensor(mask))


def value(*args: Any, compare: str = "gradient", **more: Any) -> np.ndarray:
    found: np.ndarray = term("jacobian", compare=compare).loss(batch(*args, **more)).detach().numpy()
    return found


def formula(compare: str, mask: np.ndarray) -> list[float]:
    found = []
    for row in range(ROWS):
        ours = WEIGHTS[TEACHERS_LOGITS[row].argmax()] * (1 - np.tanh(EMBEDDINGS[row]) ** 2)
        sides = [gradient[mask[row]] for gradient in (ours, TEACHERS_GRADIENTS[row])]
        if compare == "norm":
            sides = [np.sqrt((gradient**2).sum(axis=1)) for gradient in sides]
        one, other = (gradient.ravel() / np.sqrt((gradient**2).sum()) for gradient in sides)
        found.append(float(((one - other) ** 2).sum()))
    return found


@COMPARE
def test_is_its_formula(compare: str) -> None:
    likeliest = batch().student["logits"].argmax(dim=-1).numpy()
    assert (likeliest != TEACHERS_LOGITS.argmax(axis=1)).any()  # it is the teacher's class that counts
    np.testing.assert_allclose(value(compare=compare), formula(compare, np.ones_like(MASK)))
    np.testing.assert_allclose(value(compare=compare, mask=MASK), formula(compare, MASK), atol=1e-12)


def test_by_hand() -> None:
    """Gradients that point the other way are 2 apart, at a right angle √2, and their length makes no difference."""
    ours = WEIGHTS[TEACHERS_LOGITS.argmax(axis=1)] * (1 - np.tanh(EMBEDDINGS) ** 2)
    np.testing.assert_allclose(value(WEIGHTS, -7 * ours), [4, 4, 4])
    np.testing.assert_allclose(value(WEIGHTS, 7 * ours), [0, 0, 0], atol=1e-12)
    across = np.zeros_like(ours)
    across[:, 0, 0], across[:, 0, 1] = ours[:, 0, 1], -ours[:, 0, 0]
    np.testing.assert_allclose(value(WEIGHTS, across), [2, 2, 2])


def test_norms_tell_how_much_and_not_which_way() -> None:
    np.testing.assert_allclose(value(WEIGHTS, -TEACHERS_GRADIENTS, compare="norm"), value(compare="norm"))
    assert (np.abs(value(WEIGHTS, -TEACHERS_GRADIENTS) - value()) > 1e-3).all()


def test_norms_compare_across_widths() -> None:
    wider = np.concatenate([TEACHERS_GRADIENTS, np.zeros((ROWS, LENGTH, 2))], axis=2)
    np.testing.assert_allclose(value(WEIGHTS, wider, compare="norm"), value(compare="norm"))


@COMPARE
def test_what_stands_in_the_padding_makes_no_difference(compare: str) -> None:
    other = np.where(MASK[..., None], TEACHERS_GRADIENTS, 99)
    np.testing.assert_array_equal(value(WEIGHTS, other, compare=compare, mask=MASK), value(compare=compare, mask=MASK))


@COMPARE
def test_pictures_have_their_channels_before_their_places(compare: str) -> None:
    """A student of one weight a pixel: the gradient is that weight."""
    pixels, weights, theirs = (RNG.normal(size=(2, 3, 4, 5)) for _ in range(3))
    inputs = torch.tensor(pixels, requires_grad=True)
    logits = torch.stack([(inputs * torch.tensor(weights)).flatten(1).sum(dim=1), torch.zeros(2)], dim=1)
    teacher = {"logits": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "input_gradients": torch.tensor(theirs)}
    got = term("jacobian", compare=compare).loss(Batch({"logits": logits, "input_embeddings": inputs}, teacher))
    sides = [np.sqrt((g**2).sum(axis=1)) if compare == "norm" else g for g in (weights, theirs)]
    one, other = (side.reshape(2, -1) / np.linalg.norm(side.reshape(2, -1), axis=1)[:, None] for side in sides)
    np.testing.assert_allclose(got.detach().numpy(), ((one - other) ** 2).sum(axis=1))


@COMPARE
def test_gradients_of_the_students_weights(compare: str) -> None:
    loss, start = term("jacobian", compare=compare), torch.tensor(WEIGHTS, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weights: loss.loss(batch(weights, mask=MASK)), start)


@COMPARE
def test_a_teacher_that_nothing_matters_to_has_finite_gradients(compare: str) -> None:
    start = torch.tensor(WEIGHTS, requires_grad=True)
    loss = term("jacobian", compare=compare).loss(batch(start, np.zeros_like(TEACHERS_GRADIENTS)))
    np.testing.assert_allclose(loss.detach().numpy(), [1, 1, 1])
    [gradient] = torch.autograd.grad(loss.sum(), start)
    assert gradient.isfinite().all()


def test_half_precision_signals_are_compared_in_float32() -> None:
    theirs = torch.tensor(TEACHERS_GRADIENTS).bfloat16()
    got, wanted = (value(WEIGHTS, gradients) for gradients in (theirs, theirs.float()))
    np.testing.assert_array_equal(got, wanted)


def outlines(ours: tuple[int, ...], theirs: tuple[int, ...], *, logits: tuple[int, ...] = (2, 3)) -> list[Outline]:
    words = {"vocabulary": "words"} if len(ours) == 3 else {}
    return [
        Outline("the student", {"logits": ((2, 3),), "input_embeddings": (ours,)}, **words),
        Outline("the teacher", {"logits": (logits,), "input_gradients": (theirs,)}, **words),
    ]


def test_what_it_cannot_compare_is_told_before_training() -> None:
    gradient, norm = term("jacobian"), term("jacobian", compare="norm")

    def problems(loss: Any, *shapes: Any, **more: Any) -> list[str]:
        return all_problems({"mine": loss}, *outlines(*shapes, **more))

    assert problems(gradient, (2, 5, 32), (2, 5, 32)) == []
    assert problems(gradient, (2, 5, 32), (2, 5, 48)) == [
        "loss.terms.mine: compare: gradient needs inputs of one width, but those of the student are [2, 5, 32], "
        "those of the teacher [2, 5, 48]; compare: norm does not"
    ]
    assert problems(norm, (2, 5, 32), (2, 5, 48)) == []
    assert problems(norm, (2, 3, 8, 8), (2, 1, 8, 8)) == []
    assert problems(norm, (2, 3, 8, 8), (2, 3, 16, 16)) == [
        "loss.terms.mine: jacobian compares inputs place by place, but those of the student are [2, 3, 8, 8], those of "
        "the teacher [2, 3, 16, 16]"
    ]
    assert problems(gradient, (2, 5, 32), (2, 5, 32), logits=(2, 5, 3)) == [
        "loss.terms.mine: jacobian differentiates one answer a row, but the logits of the teacher are [2, 5, 3]"
    ]
    student, teacher = outlines((2, 5, 32), (2, 5, 32))
    other = Outline("the teacher", teacher.shapes, "other words")
    [problem] = all_problems({"mine": gradient}, student, other)
    assert "have different tokenizers" in problem


def test_a_model_has_nothing_to_learn_from_itself() -> None:
    model = nets.bert().double()
    for compare in ("gradient", "norm"):
        loss = term("jacobian", compare=compare)
        trained = nets.distiller(loss, model, model)
        signals = nets.said(model, loss.reads_of_teacher, nets.tokens())
        value = trained(nets.tokens(), None, signals)["loss"].item()
        trained.release()
        assert value == pytest.approx(0, abs=1e-9)


def first_step(student: Any, loss: Any, teacher: Any, inputs: dict[str, Tensor]) -> dict[str, float]:
    """How large the gradient of each of the student's parameters is at the start."""
    trained = nets.distiller(loss, student, teacher)
    trained(inputs, None, nets.said(teacher, loss.reads_of_teacher, inputs))["loss"].backward()
    trained.release()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in student.named_parameters()}


@COMPARE
def test_an_encoder_learns_where_its_teacher_looks(compare: str) -> None:
    """With dropout on, through attention that is differentiated twice, and back at its fast attention afterwards."""
    student = nets.bert(layers=2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    teacher = nets.bert(layers=3, hidden_size=48 if compare == "norm" else 32, seed=1)
    loss = term("jacobian", compare=compare)
    assert nets.problems(loss, student, teacher) == []
    sizes = first_step(student.train(), loss, teacher, nets.tokens())
    for name in ("query", "key", "value"):
        assert sizes[f"bert.encoder.layer.0.attention.self.{name}.weight"] > 1e-6
    losses = nets.losses_of_training(loss, student.eval(), teacher, nets.tokens(), steps=40)
    assert losses[-1] < 0.7 * losses[0]
    assert (student.config._attn_implementation, teacher.config._attn_implementation) == ("sdpa", "sdpa")


@COMPARE
def test_a_small_net_learns_which_pixels_matter(compare: str) -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((8, 12), seed=1)
    loss = term("jacobian", compare=compare)
    assert nets.problems(loss, student, teacher) == []
    losses = nets.losses_of_training(loss, student, teacher, nets.pixels(), steps=40)
    assert losses[-1] < 0.7 * losses[0]


def test_training_under_autocast_gives_float32_values() -> None:
    student, teacher, loss = nets.bert(), nets.bert(layers=3, seed=1), term("jacobian")
    trained = nets.distiller(loss, student, teacher)
    signals = nets.said(teacher, loss.reads_of_teacher, nets.tokens())
    exact = trained(nets.tokens(), None, signals)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = trained(nets.tokens(), None, signals)["loss"]
    rough.backward()
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.2)
