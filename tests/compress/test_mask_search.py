"""The mask search against brute force, the fits against least squares, and what is cut."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from kdc.compress.mask_search import MaskSearch, costs, rearranged, search
from kdc.compress.plan import PrecisionPlan
from kdc.compress.prune_ffn import PruneFfn
from kdc.compress.tuning import fitted
from kdc.compress.units import Units, heads
from kdc.errors import KdcError
from kdc.models.anatomy import layers
from tests.compress import models

RANDOM = np.random.default_rng(0)


def test_search_finds_the_least_loss_for_the_budget() -> None:
    """Two layers of 3 heads and 4 neurons, against every choice there is that leaves each layer one of both."""
    for seed in range(5):
        random = np.random.default_rng(seed)
        attention, forward = [random.random(3) for _ in range(2)], [random.random(4) for _ in range(2)]
        for ratio in (0.3, 0.55):
            kept = search(attention, forward, costs=(5.0, 2.0), ratio=ratio)
            budget = (1 - ratio) * (6 * 5.0 + 8 * 2.0)
            cost = sum(len(k) for k in kept[:2]) * 5.0 + sum(len(k) for k in kept[2:]) * 2.0
            assert cost <= budget
            worth = sum(v[k].sum() for v, k in zip([*attention, *forward], kept, strict=True))
            assert worth == pytest.approx(best(attention, forward, budget))


def test_a_ratio_that_leaves_layers_nothing_is_refused() -> None:
    attention, forward = [np.ones(3)] * 2, [np.ones(4)] * 2
    assert [len(kept) for kept in search(attention, forward, costs=(5.0, 2.0), ratio=0.69)] == [1, 1, 1, 1]
    with pytest.raises(KdcError, match=r"ratio: 0\.7 leaves no head and neuron a layer; lower it"):
        search(attention, forward, costs=(5.0, 2.0), ratio=0.7)


def best(attention: list[np.ndarray], forward: list[np.ndarray], budget: float) -> float:
    def worths(found: list[np.ndarray]) -> dict[int, float]:
        every = np.concatenate(found)
        owner = np.repeat(range(len(found)), [len(one) for one in found])
        most: dict[int, float] = {}
        for count in range(len(found), len(every) + 1):
            allowed = [c for c in combinations(range(len(every)), count) if set(owner[list(c)]) == set(owner)]
            most[count] = max(float(every[list(c)].sum()) for c in allowed)
        return most

    heads_worth, neurons_worth = worths(attention), worths(forward)
    return max(
        heads_worth[h] + neurons_worth[n] for h in heads_worth for n in neurons_worth if 5.0 * h + 2.0 * n <= budget
    )


def test_exchanges_end_where_slopes_cancel_out() -> None:
    """A unit whose slopes oppose those of others lowers their loss, so what it adds is below zero."""
    for seed in range(20):
        slopes = np.random.default_rng(seed).normal(size=(8, 12))
        slopes[:, 1] = -slopes[:, 0]
        information = slopes.T @ slopes / 8
        kept = rearranged(information, np.arange(6))
        before, after = (np.setdiff1d(np.arange(12), stay) for stay in (np.arange(6), kept))
        assert len(kept) == 6
        assert information[np.ix_(after, after)].sum() <= information[np.ix_(before, before)].sum() + 1e-9


def test_units_that_stand_in_for_one_another_do_not_go_together() -> None:
    slopes = RANDOM.normal(size=(200, 4))
    slopes[:, 1] = slopes[:, 0]  # either may go, not both
    slopes *= [0.6, 0.6, 0.8, 0.9]
    information = slopes.T @ slopes / 200
    assert set(np.argsort(information.diagonal())[:2]) == {0, 1}
    kept = rearranged(information, np.array([2, 3]))
    gone = [unit for unit in range(4) if unit not in kept]
    losses = {pair: information[np.ix_(pair, pair)].sum() for pair in combinations(range(4), 2)}
    assert losses[tuple(gone)] == min(losses.values())


@pytest.mark.parametrize("size", [1, 3])
def test_fits_are_least_squares(size: int) -> None:
    units = Units("layer", "reader", ("maker",), count=4, size=size)
    inputs = RANDOM.normal(size=(400, 4 * size)) @ RANDOM.normal(size=(4 * size, 4 * size))
    weight = RANDOM.normal(size=(5, 4 * size))
    kept = np.array([0, 2])
    columns = (kept[:, None] * size + np.arange(size)).ravel()
    moment, wanted = inputs.T @ inputs / 400, inputs @ weight.T
    whole = fitted(weight, moment, units, kept, "weights")
    solved, *_ = np.linalg.lstsq(inputs[:, columns], wanted, rcond=None)
    np.testing.assert_allclose(whole[:, columns], solved.T, rtol=0.02, atol=0.02)
    parts = np.stack(
        [inputs[:, unit * size : (unit + 1) * size] @ weight[:, unit * size : (unit + 1) * size].T for unit in kept]
    )
    factors, *_ = np.linalg.lstsq(parts.reshape(2, -1).T, wanted.ravel(), rcond=None)
    scaled = fitted(weight, moment, units, kept, "scales")
    np.testing.assert_allclose(scaled[:, columns], weight[:, columns] * np.repeat(factors, size), rtol=0.02, atol=0.02)

    def error(tuned: np.ndarray) -> float:
        return float(((inputs[:, columns] @ tuned[:, columns].T - wanted) ** 2).mean())

    assert error(whole) < error(scaled) < error(weight)


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2"])
@pytest.mark.parametrize("how", ["none", "scales", "weights"])
def test_heads_and_neurons_go_together(name: str, how: str) -> None:
    built = models.texts(name)
    rows = models.calibration(built)
    before, parameters = models.answers(built), sum(p.numel() for p in built.model.parameters())
    done = MaskSearch(name="mask_search", ratio=0.4, tune=how).apply(built.model, PrecisionPlan(), rows)
    found = layers(built.model, "here")
    own = heads("0", found[0].attention)
    lengths = [built.encoder.length(row) for row in built.encoder.encode(models.ROWS)]
    assert rows.positions(built.model, own.reader) == pytest.approx(np.mean(lengths))
    head_cost, neuron_cost = costs(built.model, own, tokens=float(np.mean(lengths)))
    # a head of 8 columns: four matrices of 32 rows, and a product with every token twice; a neuron reads and writes 32
    assert (head_cost, neuron_cost) == (pytest.approx(4 * 32 * 8 + 2 * 8 * np.mean(lengths)), 2 * 32)
    left = sum(layer.attention.heads * head_cost + layer.feed_forward.neurons * neuron_cost for layer in found)
    whole = 3 * (4 * head_cost + 48 * neuron_cost)
    assert 0.5 * whole < left <= 0.6 * whole
    heads_gone, neurons_gone = (
        sum(whole - getattr(getattr(layer, part), noun) for layer in found)
        for part, noun, whole in (("attention", "heads", 4), ("feed_forward", "neurons", 48))
    )
    gone = heads_gone * 8 * (4 * 32 + 3) + neurons_gone * (2 * 32 + 1)  # weights, and the biases of what makes a unit
    assert parameters - sum(p.numel() for p in built.model.parameters()) == gone
    assert len(done.lines) == 6
    said = models.answers(built)
    assert said.shape == before.shape
    assert not torch.allclose(said, before)


def test_settings_of_the_search_change_something() -> None:
    said = {}
    for words in ({}, {"rearrange": False}, {"tune": "none"}, {"ratio": 0.6}):
        built = models.texts("bert")
        step = MaskSearch.model_validate({"name": "mask_search", **words})
        step.apply(built.model, PrecisionPlan(), models.calibration(built))
        said[str(words)] = models.answers(built).sum().item()
    assert len(set(said.values())) == 4
    assert MaskSearch(name="mask_search", calibration_rows=5).rows_to_see == 5


def test_include_and_exclude_name_layers() -> None:
    """The share is of what the chosen layers compute."""
    for settings, untouched in (({"include": ["*.1"]}, {0, 2}), ({"exclude": ["*.1"]}, {1})):
        built = models.texts("bert")
        rows = models.calibration(built)
        MaskSearch(name="mask_search", ratio=0.4, **settings).apply(built.model, PrecisionPlan(), rows)
        found = layers(built.model, "here")
        head_cost, neuron_cost = costs(
            built.model, heads("0", found[0].attention), tokens=rows.positions(built.model, found[0].attention.output)
        )
        left = [one.attention.heads * head_cost + one.feed_forward.neurons * neuron_cost for one in found]
        whole = 4 * head_cost + 48 * neuron_cost
        assert all(left[number] == whole for number in untouched)
        chosen = [cost for number, cost in enumerate(left) if number not in untouched]
        assert 0.5 * whole < np.mean(chosen) <= 0.6 * whole


@pytest.mark.parametrize("how", ["scales", "weights"])
def test_a_fit_brings_a_cut_model_nearer(how: str) -> None:
    errors = {}
    for tune in ("none", how):
        built = models.texts("bert")
        before = models.answers(built, 24)
        step = PruneFfn(name="prune_ffn", score="l2", tune=tune, align=1)
        assert step.rows_to_see == (0 if tune == "none" else 512)
        step.apply(built.model, PrecisionPlan(), models.calibration(built))
        errors[tune] = float((models.answers(built, 24) - before).square().mean())
    assert errors[how] < errors["none"]
