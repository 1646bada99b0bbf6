"""Low rank: errors against the best there can be, ranks by hand, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from kdc.compress.plan import PrecisionPlan
from kdc.compress.svd import Factors, Svd, _global_ranks, plain, weighted, whitened
from kdc.errors import KdcError
from kdc.models.shapes import Factorized
from tests.compress import models

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(7, 5))
FIRST = "bert.encoder.layer.0.intermediate.dense"


def truncated(found: Factors, rank: int) -> np.ndarray:
    return (found.left[:, :rank] @ found.right[:rank]).numpy()


def tails(matrix: np.ndarray) -> np.ndarray:
    """The squared error of the best approximation of every rank, by Eckart and Young."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return np.array([(values[rank:] ** 2).sum() for rank in range(len(values) + 1)])


def test_plain_is_the_best_of_its_rank() -> None:
    found = plain(torch.from_numpy(WEIGHT))
    for rank in range(1, 6):
        assert ((truncated(found, rank) - WEIGHT) ** 2).sum() == pytest.approx(tails(WEIGHT)[rank], abs=1e-12)
        assert found.energies[rank:].sum().item() == pytest.approx(tails(WEIGHT)[rank], abs=1e-12)


def test_whitened_is_the_best_for_the_outputs() -> None:
    """No matrix of the rank is nearer to W X than the truncated decomposition of W X itself."""
    inputs = RANDOM.normal(size=(5, 40)) * np.array([[3.0], [1.0], [0.3], [2.0], [0.1]])
    found = whitened(torch.from_numpy(WEIGHT), torch.from_numpy(inputs @ inputs.T))
    for rank in range(1, 5):
        error = (((truncated(found, rank) - WEIGHT) @ inputs) ** 2).sum()
        assert error == pytest.approx(tails(WEIGHT @ inputs)[rank], rel=1e-3)
        assert error < (((truncated(plain(torch.from_numpy(WEIGHT)), rank) - WEIGHT) @ inputs) ** 2).sum()


def test_inputs_that_never_move_do_not_matter() -> None:
    inputs = RANDOM.normal(size=(5, 40))
    inputs[2] = 0
    found = whitened(torch.from_numpy(WEIGHT), torch.from_numpy(inputs @ inputs.T))
    assert (((truncated(found, 4) - WEIGHT) @ inputs) ** 2).sum() < 1e-4 * ((WEIGHT @ inputs) ** 2).sum()


def test_a_linear_that_reads_or_is_nothing_keeps_what_it_has() -> None:
    idle = whitened(torch.from_numpy(WEIGHT), torch.zeros(5, 5))
    np.testing.assert_allclose(truncated(idle, 5), WEIGHT, atol=1e-12)
    empty = plain(torch.zeros(7, 5))
    assert empty.shares.tolist() == [0] * 5
    assert _global_ranks({"full": plain(torch.from_numpy(WEIGHT)), "empty": empty}, 36)["full"] == 2


def test_weighted_is_the_best_by_outputs_that_matter() -> None:
    information = RANDOM.uniform(0.1, 9, size=7)
    found = weighted(torch.from_numpy(WEIGHT), torch.from_numpy(information))
    for rank in range(1, 6):
        error = (information[:, None] * (truncated(found, rank) - WEIGHT) ** 2).sum()
        assert error == pytest.approx(tails(np.sqrt(information)[:, None] * WEIGHT)[rank], abs=1e-10)


def test_fisher_information_is_the_mean_of_squared_slopes() -> None:
    built = models.texts("bert")
    weight = built.model.get_submodule(FIRST).weight
    [found] = models.calibration(built, 5).fisher(built.model, [weight])
    wanted = torch.zeros_like(weight)
    for row in range(5):
        rows = models.ROWS.select([row])
        arrays = built.encoder.collate(built.encoder.encode(rows))
        logits = built.model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits
        loss = cross_entropy(logits, torch.from_numpy(rows["label"]))
        wanted += torch.autograd.grad(loss, weight)[0] ** 2 / 5
    torch.testing.assert_close(found, wanted)


def test_moments_are_those_of_real_tokens() -> None:
    built = models.texts("bert")
    seen: list[np.ndarray] = []
    hook = built.model.get_submodule(FIRST).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][0].detach().double().numpy())  # type: ignore[func-returns-value]
    )
    for row in built.encoder.encode(models.ROWS):
        built.model(**{name: torch.from_numpy(array) for name, array in built.encoder.collate([row]).items()})
    hook.remove()
    states = np.concatenate(seen)
    found = models.calibration(built).moments(built.model, [FIRST])[FIRST]
    np.testing.assert_allclose(found.numpy(), states.T @ states / len(states), rtol=1e-4, atol=1e-6)


def factorized(family: str = "bert", **settings: Any) -> tuple[Any, dict[str, int], list[str]]:
    """The model, the ranks by module, and what was said."""
    built = models.texts(family)
    step = Svd(name="svd", **settings)
    rows = models.calibration(built) if step.rows_to_see else None
    done = step.apply(built.model, PrecisionPlan(), rows)
    assert models.answers(built).isfinite().all()
    pairs = {name: module for name, module in done.model.named_modules() if isinstance(module, Factorized)}
    return done.model, {name: pair[1].weight.shape[1] for name, pair in pairs.items()}, done.lines


def weights(model: Any) -> int:
    """Of linears, biases and the last one left out."""
    linears = [m for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and n != "classifier"]
    return sum(module.weight.numel() for module in linears if module.weight.shape[0] != 2)


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
@pytest.mark.parametrize("spread", ["layer", "global"])
def test_ratio_is_the_share_of_weights_that_go(spread: str, family: str) -> None:
    whole = weights(models.texts(family).model)
    model, ranks, lines = factorized(family, ratio=0.4, spread=spread)
    assert weights(model) <= 0.6 * whole
    assert weights(model) > 0.55 * whole
    assert len(lines) >= len(ranks) > 0
    by_layer = {tuple(rank for name, rank in ranks.items() if f".{number}." in name) for number in range(3)}
    assert (len(by_layer) == 1) == (spread == "layer")


def test_energy_and_rank_say_how_many_stay() -> None:
    _, ranks, lines = factorized(method="plain", energy=0.5)
    values = np.linalg.svd(models.texts("bert").model.get_submodule(FIRST).weight.detach().numpy(), compute_uv=False)
    shares = np.cumsum(values**2) / (values**2).sum()
    assert ranks[FIRST] == 1 + int((shares < 0.5).sum())
    assert f"{FIRST}: rank {ranks[FIRST]} of 32, {shares[ranks[FIRST] - 1]:.1%} of its energy" in lines
    assert set(factorized(method="plain", rank=3)[1].values()) == {3}


def test_what_would_take_more_weights_is_left_whole_and_said() -> None:
    model, ranks, lines = factorized(method="plain", energy=0.87)
    assert 0 < len(ranks) < len(lines)
    for line in lines:
        name, _, said = line.partition(": ")
        assert (name in ranks) == (not said.startswith("left whole, rank"))
        assert name in ranks or type(model.get_submodule(name)) is torch.nn.Linear
    with pytest.raises(KdcError, match="no rank pays, so every linear is as it was"):
        factorized(method="plain", energy=0.999)


def test_a_rank_that_does_not_pay_is_refused() -> None:
    """32 x 32 weights are 1,024; two linears of rank 16 have as many."""
    factorized(method="plain", rank=15)
    with pytest.raises(KdcError, match=r"rank=16 does not pay: .* has 32 x 32 weights, .*; take at most 15, or excl"):
        factorized(method="plain", rank=16)
    with pytest.raises(KdcError, match="ratio: a rank of 1 everywhere takes more weights than that leaves"):
        factorized(method="plain", ratio=0.97)
    with pytest.raises(ValidationError, match="energy and rank both say"):
        Svd(name="svd", energy=0.5, rank=3)


def test_methods_decompose_differently() -> None:
    found = [factorized(method=method, spread="layer")[0] for method in ("plain", "activation", "fisher")]
    logits = [model.get_submodule(FIRST)(torch.ones(1, 32)) for model in found]
    assert not any(torch.allclose(one, other, rtol=1e-3) for one, other in [logits[:2], logits[1:], logits[::2]])


def test_embeddings_are_factorized_where_asked() -> None:
    name = "bert.embeddings.word_embeddings"
    assert name not in factorized(method="plain", rank=4)[1]
    model, ranks, _ = factorized(method="plain", rank=4, embeddings=True)
    assert ranks[name] == 4
    assert isinstance(model.get_submodule(name)[0], torch.nn.Embedding)


def test_a_budget_is_spent_where_it_buys_most() -> None:
    """Two matrices of 4 x 4 at 8 weights a rank; rank 1 pays alone, and the whole matrix costs 8 more."""
    steep = Factors(torch.zeros(4, 4), torch.zeros(4, 4), torch.tensor([90.0, 8.0, 1.0, 1.0]))
    flat = Factors(torch.zeros(4, 4), torch.zeros(4, 4), torch.tensor([30.0, 30.0, 20.0, 20.0]))
    assert steep.paying == 1
    assert _global_ranks({"steep": steep, "flat": flat}, 16) == {"steep": 1, "flat": 1}
    assert _global_ranks({"steep": steep, "flat": flat}, 24) == {"steep": 1, "flat": 4}
    assert _global_ranks({"steep": steep, "flat": flat}, 32) == {"steep": 4, "flat": 4}


def test_include_and_exclude_name_modules() -> None:
    ranks = factorized(method="plain", rank=4, include=["*.layer.0.*"], exclude=["*attention*"])[1]
    assert set(ranks) == {FIRST, "bert.encoder.layer.0.output.dense"}
