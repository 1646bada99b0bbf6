"""Penalties on weights against their formulas in NumPy, and that they make weights small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdc.distill.distiller import Distiller
from kdc.distill.terms.base import Batch
from kdc.models.taps import outline
from tests.distill.terms import nets
from tests.distill.terms.logit_terms import term
from tests.models.test_taps import build

RNG = np.random.default_rng(19)
WEIGHTS = {
    name: RNG.normal(size=shape)
    for name, shape in (("body.first", (4, 3)), ("body.second", (2, 4, 3, 3)), ("head", (2, 5)))
}
NAMES = ("l1", "group_lasso")


def value(name: str, weights: Any = WEIGHTS, **settings: Any) -> float:
    tensors = {key: torch.as_tensor(weight) for key, weight in weights.items()}
    found = term(name, **settings).loss(Batch({"weights": tensors}))
    assert found.ndim == 0
    return float(found)


def lasso(*names: str) -> float:
    everything = np.concatenate([WEIGHTS[name].ravel() for name in names])
    return float(np.abs(everything).mean())


def group_lasso(*names: str, axis: int = 0) -> float:
    total, count = 0.0, 0
    for name in names:
        for group in np.moveaxis(WEIGHTS[name], axis, 0):
            total += np.sqrt(group.size) * np.sqrt((group**2).sum())
            count += group.size
    return total / count


def test_l1_is_the_mean_size_of_all_weights() -> None:
    assert value("l1") == pytest.approx(lasso(*WEIGHTS))


@pytest.mark.parametrize(("groups", "axis"), [("outputs", 0), ("inputs", 1)])
def test_group_lasso_is_its_formula(groups: str, axis: int) -> None:
    assert value("group_lasso", groups=groups) == pytest.approx(group_lasso(*WEIGHTS, axis=axis))


def test_group_lasso_by_hand() -> None:
    """Rows (3, 4) and (0, 0): √2 · 5 over four weights; columns (3, 0) and (4, 0): √2 · 7."""
    weights = {"it": np.array([[3.0, 4], [0, 0]])}
    assert value("group_lasso", weights) == pytest.approx(np.sqrt(2) * 5 / 4)
    assert value("group_lasso", weights, groups="inputs") == pytest.approx(np.sqrt(2) * 7 / 4)
    assert value("l1", weights) == pytest.approx(7 / 4)


def test_group_lasso_takes_outputs_by_default_and_prefers_few_full_groups() -> None:
    assert term("group_lasso") == term("group_lasso", groups="outputs", include=["*"], exclude=[])
    gathered, spread = {"it": np.array([[3.0, 4], [0, 0]])}, {"it": np.array([[3.0, 0], [0, 4]])}
    assert value("group_lasso", gathered) < value("group_lasso", spread)
    assert value("l1", gathered) == value("l1", spread)


@pytest.mark.parametrize(
    ("settings", "counting"),
    [
        ({"include": ["body.*"]}, ["body.first", "body.second"]),
        ({"exclude": ["*.second"]}, ["body.first", "head"]),
        ({"include": ["body.*", "head"], "exclude": ["*first", "head"]}, ["body.second"]),
    ],
)
def test_patterns_choose_the_weights_that_count(settings: dict[str, Any], counting: list[str]) -> None:
    assert value("l1", **settings) == pytest.approx(lasso(*counting))
    assert value("group_lasso", **settings) == pytest.approx(group_lasso(*counting))


@pytest.mark.parametrize(("name", "settings"), [("l1", {}), ("group_lasso", {}), ("group_lasso", {"groups": "inputs"})])
def test_gradients(name: str, settings: dict[str, Any]) -> None:
    starts = [torch.tensor(weight, requires_grad=True) for weight in WEIGHTS.values()]

    def of(*weights: Tensor) -> Tensor:
        named = dict(zip(WEIGHTS, weights, strict=True))
        return term(name, **settings).loss(Batch({"weights": named}))

    assert torch.autograd.gradcheck(of, starts)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_zero_stays_there(name: str) -> None:
    start = torch.zeros(3, 4, requires_grad=True)
    [gradient] = torch.autograd.grad(term(name).loss(Batch({"weights": {"it": start}})), start)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_weights_are_summed_in_float32(name: str) -> None:
    rounded = {key: torch.tensor(weight).bfloat16() for key, weight in WEIGHTS.items()}
    wanted = value(name, {key: weight.float() for key, weight in rounded.items()})
    assert value(name, rounded) == wanted
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert value(name, rounded) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_no_teacher_and_no_rows_are_needed(name: str) -> None:
    assert term(name).asks_of_teacher == frozenset()
    assert not term(name).needs_labels
    assert not term(name).by_row


@pytest.mark.parametrize("name", NAMES)
def test_patterns_that_match_nothing_are_told_before_training(name: str) -> None:
    seen = outline(nets.cnn(), {"weights"}, name="the student")
    assert seen.matrices == ("layers.0", "layers.4", "layers.9", "layers.12")
    assert list(term(name, include=["layers.?"]).problems(seen, None)) == []
    assert list(term(name, include=["encoder.*"], exclude=["layers.0", "pooler"]).problems(seen, None)) == [
        "include: no weights of the student are called 'encoder.*'; they are layers.0, layers.4, layers.9, ...",
        "exclude: no weights of the student are called 'pooler'; they are layers.0, layers.4, layers.9, ...",
    ]
    for settings in ({"exclude": ["layers.*"]}, {"include": []}):
        assert list(term(name, **settings).problems(seen, None)) == [
            f"{name}: include and exclude leave none of the weights of the student"
        ]


def test_outputs_are_outputs_in_gpt2_too_whose_matrices_are_stored_the_other_way_round() -> None:
    model = build("gpt2")
    said = nets.said(model, frozenset({"weights"}), {"input_ids": torch.ones(1, 3, dtype=torch.long)})
    pattern = "transformer.h.0.mlp.c_fc"
    weight = model.get_submodule(pattern).weight.detach().numpy()  # [inputs, outputs]
    wanted = np.sqrt(16) * np.sqrt((weight**2).sum(axis=0)).sum() / weight.size
    assert weight.shape == (16, 64)
    assert term("group_lasso", include=[pattern]).loss(Batch(said)).item() == pytest.approx(wanted)


@pytest.mark.parametrize(("name", "settings"), [("l1", {}), ("group_lasso", {}), ("group_lasso", {"groups": "inputs"})])
@pytest.mark.parametrize("kind", ["bert", "cnn"])
def test_training_makes_the_chosen_weights_smaller_and_leaves_the_rest(
    kind: str, name: str, settings: dict[str, Any]
) -> None:
    model, inputs, left_out = (
        (nets.bert(), nets.tokens(), "classifier") if kind == "bert" else (nets.cnn(), nets.pixels(), "layers.12")
    )
    loss = term(name, exclude=[left_out], **settings)
    trained = Distiller(model, {"it": loss})
    optimizer = torch.optim.SGD(trained.parameters(), lr=1.0)
    before, values = {key: p.detach().clone() for key, p in model.named_parameters()}, []
    for _ in range(5):
        optimizer.zero_grad()
        value = trained(inputs)["loss"]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values == sorted(values, reverse=True)
    moved = {key for key, p in model.named_parameters() if bool((p != before[key]).any())}
    assert moved == {f"{key}.weight" for key, _ in nets.said(model, loss.reads, inputs)["weights"].items()} - {
        f"{left_out}.weight"
    }
