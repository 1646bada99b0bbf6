"""Units of structured pruning: scores against NumPy and finite differences, choices by hand, cuts against masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from kdc.compress.units import Units, choose, cut, heads, neurons, scores
from kdc.models.anatomy import layers
from kdc.models.shapes import refresh
from tests.compress import models

FAMILIES = ("bert", "roberta", "electra", "distilbert", "gpt2")
KINDS: dict[str, Callable[[Any], Units]] = {
    "neurons": lambda layer: neurons(layer.name, layer.feed_forward),
    "heads": lambda layer: heads(layer.name, layer.attention),
}


def units(model: Any, kind: str) -> list[Units]:
    return [KINDS[kind](layer) for layer in layers(model, "x")]


def weight(model: Any, name: str) -> np.ndarray:
    """`[outputs, inputs]`."""
    module = model.get_submodule(name)
    matrix = module.weight.detach().double().numpy()
    return matrix.T if type(module).__name__ == "Conv1D" else matrix


def masked(model: Any, all_units: list[Units], masks: list[torch.Tensor]) -> list[Any]:
    """Hooks that multiply what each reader reads by its mask, a number a unit; the caller removes them."""

    def scale(mask: torch.Tensor, size: int) -> Callable[..., tuple[torch.Tensor, ...]]:
        return lambda module, inputs: (inputs[0] * mask.repeat_interleave(size), *inputs[1:])

    return [
        model.get_submodule(one.reader).register_forward_pre_hook(scale(mask, one.size))
        for one, mask in zip(all_units, masks, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_heads_and_neurons(family: str) -> None:
    model = models.texts(family).model
    assert [(one.count, one.size) for one in units(model, "neurons")] == [(48, 1)] * 3
    assert [(one.count, one.size) for one in units(model, "heads")] == [(4, 8)] * 3


@pytest.mark.parametrize("score", ["l1", "l2"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_magnitude_is_the_norm_of_all_weights_of_a_unit(family: str, score: Any) -> None:
    model = models.texts(family).model
    for kind in KINDS:
        all_units = units(model, kind)
        for one, found in zip(all_units, scores(model, all_units, score, None), strict=True):
            norms = []
            for unit in range(one.count):
                own = list(range(unit * one.size, (unit + 1) * one.size))
                pieces = [weight(model, one.reader)[:, own]]
                for maker in one.makers:
                    parts = [[part * one.count * one.size + row for row in own] for part in range(one.parts)]
                    pieces += [weight(model, maker)[rows] for rows in parts]
                own_weights = np.concatenate([piece.ravel() for piece in pieces])
                norms.append(np.linalg.norm(own_weights, ord=int(score[1])))
            np.testing.assert_allclose(found, norms / np.mean(norms), rtol=1e-12)


def test_activation_is_the_size_of_what_a_unit_adds() -> None:
    """Text by text, so that there is no padding; rms of each input times the norm of its column."""
    built = models.texts("bert")
    for kind in KINDS:
        all_units = units(built.model, kind)
        found = scores(built.model, all_units, "activation", models.calibration(built))
        for one, values in zip(all_units, found, strict=True):
            seen: list[torch.Tensor] = []
            hook = built.model.get_submodule(one.reader).register_forward_pre_hook(
                lambda module, inputs, seen=seen: seen.append(inputs[0][0])  # type: ignore[misc]
            )
            for row in built.encoder.encode(models.ROWS):
                arrays = built.encoder.collate([row])
                built.model(**{name: torch.from_numpy(array) for name, array in arrays.items()})
            hook.remove()
            states = torch.cat(seen).detach().double().numpy()
            size = np.sqrt((states**2).mean(axis=0)) * np.linalg.norm(weight(built.model, one.reader), axis=0)
            wanted = np.sqrt((size.reshape(one.count, one.size) ** 2).sum(axis=1))
            np.testing.assert_allclose(values, wanted, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_saliencies_are_the_losss_slopes_along_a_mask(kind: str, family: str) -> None:
    """By central differences of each row's own loss, in float64."""
    built = models.texts(family)
    built.model.double()
    all_units = units(built.model, kind)
    rows = models.calibration(built, 4)
    inputs, labels = models.batch(built, 4), torch.from_numpy(models.ROWS["label"][:4])

    def losses(masks: list[torch.Tensor]) -> np.ndarray:
        hooks = masked(built.model, all_units, masks)
        with torch.no_grad():
            found = cross_entropy(built.model(**inputs).logits, labels, reduction="none").numpy()
        for hook in hooks:
            hook.remove()
        return found

    taylor = scores(built.model, all_units, "taylor", rows)
    fisher = scores(built.model, all_units, "fisher", rows)
    ones = [torch.ones(one.count, dtype=torch.float64) for one in all_units]
    for number in (0, 2):
        for unit in (0, all_units[number].count - 1):
            sides = []
            for step in (1e-5, -1e-5):
                masks = [mask.clone() for mask in ones]
                masks[number][unit] += step
                sides.append(losses(masks))
            slopes = (sides[0] - sides[1]) / 2e-5
            assert taylor[number][unit] == pytest.approx(np.abs(slopes).mean(), rel=1e-4, abs=1e-9)
            assert fisher[number][unit] == pytest.approx((slopes**2).mean(), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_answers_as_one_whose_units_are_masked(kind: str, family: str) -> None:
    built = models.texts(family)
    all_units = units(built.model, kind)
    kept = [np.array(numbers) for numbers in ([0, 3], [1], [0, 1, 2])]
    masks = []
    for one, numbers in zip(all_units, kept, strict=True):
        masks.append(torch.zeros(one.count))
        masks[-1][numbers] = 1
    before = sum(parameter.numel() for parameter in built.model.parameters())
    hooks = masked(built.model, all_units, masks)
    wanted = models.answers(built)
    for hook in hooks:
        hook.remove()
    assert not torch.allclose(wanted, models.answers(built), atol=1e-3)
    for one, numbers in zip(all_units, kept, strict=True):
        cut(built.model, one, numbers)
    refresh(built.model)
    torch.testing.assert_close(models.answers(built), wanted, rtol=1e-5, atol=1e-5)
    assert [one.count for one in units(built.model, kind)] == [2, 1, 3]
    gone = sum(one.count - len(numbers) for one, numbers in zip(all_units, kept, strict=True))
    a_unit = 2 * 32 + 1 if kind == "neurons" else 8 * (3 * (32 + 1) + 32)
    assert before - sum(parameter.numel() for parameter in built.model.parameters()) == gone * a_unit


IMPORTANCE = [np.array([5.0, 1.0, 4.0, 2.0]), np.array([8.0, 7.0, 3.0, 6.0])]


@pytest.mark.parametrize(
    ("ratio", "uniform", "align", "kept"),
    [
        (0.5, True, 1, [[0, 2], [0, 1]]),
        (0.5, False, 1, [[0], [0, 1, 3]]),
        (0.25, False, 1, [[0, 2], [0, 1, 2, 3]]),
        (0.25, True, 2, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (0.5, False, 2, [[0, 2], [0, 1, 2, 3]]),
        (0.99, False, 1, [[0], [0]]),
        (0.5, True, 3, [[0, 2, 3], [0, 1, 3]]),
        (0.5, True, 5, [[0, 2], [0, 1]]),
    ],
)
def test_the_least_important_go(ratio: float, uniform: bool, align: int, kept: list[list[int]]) -> None:
    assert [list(numbers) for numbers in choose(IMPORTANCE, ratio, uniform=uniform, align=align)] == kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_vision_transformer_answers_as_one_whose_units_are_masked(kind: str) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(**models.SIZES, num_hidden_layers=3, image_size=16, patch_size=4, num_channels=1)
    model, pictures = ViTForImageClassification(config).eval(), torch.randn(3, 1, 16, 16)
    all_units = units(model, kind)
    masks = [torch.ones(one.count) for one in all_units]
    masks[1][:2] = 0
    hooks = masked(model, all_units, masks)
    wanted = model(pictures).logits
    for hook in hooks:
        hook.remove()
    cut(model, all_units[1], np.arange(2, all_units[1].count))
    torch.testing.assert_close(model(pictures).logits, wanted, rtol=1e-5, atol=1e-6)
    assert [one.count for one in units(model, kind)] == [all_units[0].count, all_units[0].count - 2, all_units[0].count]
