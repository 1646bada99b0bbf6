"""Single weights: scores against NumPy and autograd, which go by hand, zeros that are there in the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from kdc.compress.calibration import Calibration
from kdc.compress.plan import PrecisionPlan
from kdc.compress.prune import Prune
from kdc.compress.watching import positions_of
from kdc.models.taps import matrices
from tests import tiny
from tests.compress import models

FIRST = "bert.encoder.layer.0.intermediate.dense"


def pruned(family: str = "bert", **settings: Any) -> Any:
    built = models.texts(family)
    step = Prune(name="prune", **settings)
    rows = models.calibration(built) if step.rows_to_see else None
    return step.apply(built.model, PrecisionPlan(), rows)


def zeros(model: Any) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy() == 0 for name, weight in matrices(model)}


def scored(model: Any, name: str, scores: np.ndarray, gone: np.ndarray) -> None:
    """What went scores less than all that stayed."""
    assert gone.any()
    assert scores[gone].max() <= scores[~gone].min(), name


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_smallest_of_each_layer_go(family: str) -> None:
    before = {name: weight.detach().numpy().copy() for name, weight in matrices(models.texts(family).model)}
    done = pruned(family, ratio=0.25)
    for name, gone in zeros(done.model).items():
        assert gone.sum() == gone.size // 4
        scored(done.model, name, np.abs(before[name]), gone)
        assert f"{name}: 25.0% of {gone.size:,} weights are zero" in done.lines


def test_the_smallest_of_all_or_of_each_row_go() -> None:
    before = {name: np.abs(weight.detach().numpy()) for name, weight in matrices(models.texts("bert").model)}
    every = np.concatenate([scores.ravel() for scores in before.values()])
    gone = zeros(pruned(ratio=0.3, scope="global").model)
    whole = np.concatenate([mask.ravel() for mask in gone.values()])
    assert whole.sum() == int(0.3 * len(every))
    scored(None, "all", every, whole)
    assert len({mask.mean() for mask in gone.values()}) > 1
    for name, mask in zeros(pruned(ratio=0.3, scope="row").model).items():
        assert (mask.sum(axis=1) == int(0.3 * mask.shape[1])).all()
        for row, own in zip(before[name], mask, strict=True):
            scored(None, name, row, own)


def test_a_threshold_is_absolute() -> None:
    before = {name: np.abs(weight.detach().numpy()) for name, weight in matrices(models.texts("bert").model)}
    for scope in ("layer", "global", "row"):
        for name, mask in zeros(pruned(threshold=0.1, scope=scope).model).items():
            np.testing.assert_array_equal(mask, before[name] <= np.float32(0.1))


def test_n_of_m_inputs_stay() -> None:
    before = {name: np.abs(weight.detach().numpy()) for name, weight in matrices(models.texts("bert").model)}
    for name, mask in zeros(pruned(pattern="2:4").model).items():
        groups = mask.reshape(len(mask), -1, 4)
        assert (groups.sum(axis=2) == 2).all()
        scores = before[name].reshape(groups.shape)
        assert (np.where(groups, scores, -1).max(axis=2) <= np.where(groups, 9, scores).min(axis=2)).all()
    net = tiny.built_net(tiny.pictures(4), "cnn")
    Prune(name="prune", pattern="1:4").apply(net.model, PrecisionPlan())
    first = next(weight for _, weight in matrices(net.model)).flatten(1)  # one channel, 3 x 3: nine inputs
    assert ((first[:, :8].unflatten(1, (2, 4)) != 0).sum(dim=2) == 1).all()
    assert (first[:, 8] != 0).all()


def test_wanda_is_weight_times_norm_of_input() -> None:
    """Row by row without padding, in NumPy."""
    built = models.texts("bert")
    seen: list[np.ndarray] = []
    hook = built.model.get_submodule(FIRST).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][0].detach().numpy())  # type: ignore[func-returns-value]
    )
    for row in built.encoder.encode(models.ROWS):
        built.model(**{name: torch.from_numpy(array) for name, array in built.encoder.collate([row]).items()})
    hook.remove()
    weight = built.model.get_submodule(FIRST).weight.detach().numpy()
    scores = np.abs(weight) * np.linalg.norm(np.concatenate(seen), axis=0)
    gone = zeros(pruned(ratio=0.4, score="wanda", scope="row").model)[FIRST]
    assert (gone.sum(axis=1) == int(0.4 * gone.shape[1])).all()
    for row, own in zip(scores, gone, strict=True):
        assert row[own].max() <= row[~own].min() * (1 + 1e-5)


@pytest.mark.parametrize("padding", ["same", "valid", 2])
def test_wanda_of_one_dimension_and_of_paddings_by_name(padding: Any) -> None:
    made = torch.nn.Conv1d(3, 4, 5, padding=padding)
    sides = {"same": 2, "valid": 0, 2: 2}[padding]
    lines = np.random.default_rng(0).normal(size=(2, 3, 9)).astype(np.float32)
    padded = np.pad(lines, ((0, 0), (0, 0), (sides, sides)))
    wanted = [padded[row, :, x : x + 5].ravel() for row in range(2) for x in range(padded.shape[2] - 4)]
    np.testing.assert_array_equal(positions_of(made, torch.from_numpy(lines), None).numpy(), wanted)
    picture = torch.nn.Conv2d(3, 4, (1, 5), padding=padding if isinstance(padding, str) else (0, 2))
    np.testing.assert_array_equal(positions_of(picture, torch.from_numpy(lines[:, :, None]), None).numpy(), wanted)


def test_convolutions_of_texts_are_pruned_too() -> None:
    built = tiny.built_text_net(models.ROWS, "cnn")
    before = [name for name, module in built.model.named_modules() if isinstance(module, torch.nn.Conv1d)]
    Prune(name="prune", ratio=0.5).apply(built.model, PrecisionPlan())
    assert before
    for name in before:
        assert (built.model.get_parameter(f"{name}.weight") == 0).float().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_convolution_sees_the_patches_under_its_kernel(groups: int) -> None:
    """A convolution is a linear of patches: of each output the inputs of its group, cut out by hand."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = convolution

        def forward(self, pixel_values: torch.Tensor) -> Any:
            raise NotImplementedError

    pictures = torch.randn(3, 4, 7, 7)

    class Rows(Calibration):
        def _batches(self) -> Any:
            yield {"pixel_values": pictures}, torch.zeros(3)

    net = Net()
    net.forward = lambda pixel_values: net.first(pixel_values)  # type: ignore[method-assign]
    norms = Rows(tiny.task(), None, models.ROWS).input_norms(net, ["first"])["first"]  # type: ignore[arg-type]
    padded = np.pad(pictures.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((4, 3, 3))
    for y in range(0, 7, 2):
        for x in range(0, 7, 2):
            wanted += (padded[:, :, y : y + 3, x : x + 3] ** 2).sum(axis=0)
    np.testing.assert_allclose(norms.numpy(), np.sqrt(wanted).ravel(), rtol=1e-5)
    scores = Prune(name="prune", score="wanda")._scores(
        net, {"first": convolution.weight}, Rows(tiny.task(), None, models.ROWS)
    )  # type: ignore[arg-type]
    own = np.sqrt(wanted).reshape(groups, -1)
    for output, row in enumerate(scores["first"].numpy()):
        weight = np.abs(convolution.weight[output].detach().numpy().ravel())
        np.testing.assert_allclose(row, weight * own[output * groups // 6], rtol=1e-5)


@pytest.mark.parametrize("score", ["wanda", "taylor"])
def test_what_no_row_reaches_matters_least(score: str) -> None:
    built = models.texts("bert")
    built.model.bert.unused = torch.nn.Linear(4, 4)
    step = Prune.model_validate({"name": "prune", "ratio": 0.1, "score": score, "scope": "global"})
    step.apply(built.model, PrecisionPlan(), models.calibration(built))
    assert not built.model.bert.unused.weight.any()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_taylor_is_weight_times_slope(family: str) -> None:
    built = models.texts(family)
    loss = cross_entropy(built.model(**models.batch(built, 24)).logits, torch.from_numpy(models.ROWS["label"]))
    loss.backward()
    gone = zeros(pruned(family, ratio=0.5, score="taylor", scope="global").model)
    scores = {}
    for name, weight in matrices(built.model):
        module = built.model.get_submodule(name)
        gradient = module.weight.grad.t() if type(module).__name__ == "Conv1D" else module.weight.grad
        scores[name] = (weight * gradient).abs().detach().numpy()
    every, mask = (np.concatenate([part[name].ravel() for name in gone]) for part in (scores, gone))
    assert every[mask].max() <= every[~mask].min() * (1 + 1e-3) + 1e-9


def test_rounds_follow_a_cubic() -> None:
    step = Prune(name="prune", ratio=0.8, rounds=4, recover={"epochs": 2})
    parts = step.in_rounds()
    assert [part.ratio for part in parts] == pytest.approx([0.8 * (1 - (1 - t / 4) ** 3) for t in (1, 2, 3, 4)])
    assert [(part.rounds, part.recover.epochs) for part in parts if part.recover] == [(1, 0.5)] * 4
    built = models.texts("bert")
    model, before = built.model, np.zeros(0)
    for part in parts:
        model = part.apply(model, PrecisionPlan()).model
        gone = np.concatenate([mask.ravel() for mask in zeros(model).values()])
        assert gone.mean() == pytest.approx(part.ratio, abs=2e-3)
        assert not len(before) or gone[before].all(), "what was gone stays gone"
        before = gone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "less than 1"),
        ({"pattern": "4:2"}, "is no n:m with n below m"),
        ({"pattern": "half"}, "is no n:m with n below m"),
        ({"pattern": "2:4", "threshold": 0.1}, "threshold and pattern both say what stays"),
        ({"rounds": 2}, "several rounds are for a recovery after each"),
        ({"rounds": 2, "recover": {}, "threshold": 0.1}, "rounds approach a ratio"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Prune(name="prune", **settings)


def test_include_and_exclude_name_modules() -> None:
    gone = zeros(pruned(include=["*.layer.0.*"], exclude=["*attention*"]).model)
    assert [name for name, mask in gone.items() if mask.any()] == [FIRST, "bert.encoder.layer.0.output.dense"]


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_weights_that_matter_alike_do_not_all_go(scope: str) -> None:
    """Inputs that never move score nothing, and there may be more of them than shall go."""
    model = models.texts("bert").model
    with torch.no_grad():
        for _, weight in matrices(model):
            weight.fill_(0.5)
    done = Prune(name="prune", ratio=0.25, scope=scope).apply(model, PrecisionPlan())
    gone = np.concatenate([mask.ravel() for mask in zeros(done.model).values()])
    assert gone.sum() == len(gone) // 4
