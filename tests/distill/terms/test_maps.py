"""Terms on feature maps against the papers' formulas in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kdc.distill.terms.base import Batch
from tests.distill.terms import nets
from tests.distill.terms.logit_terms import term

RNG = np.random.default_rng(5)
OURS, THEIRS = RNG.normal(size=(2, 4, 6, 4)), RNG.normal(size=(2, 7, 6, 4))
ALIKE = RNG.normal(size=(2, 4, 6, 4))
NAMES = ("hint", "attention_transfer", "nst")
KERNELS = ("polynomial", "linear", "gaussian")


def batch(ours: Any, theirs: Any, dtype: torch.dtype = torch.float64) -> Batch:
    """Pictures, then one map each."""
    pictures = torch.zeros(2, 1, 12, 8)
    states = [(pictures, torch.as_tensor(maps).to(dtype)) for maps in (ours, theirs)]
    return Batch({"hidden_states": states[0]}, {"hidden_states": states[1]})


def value(name: str, ours: Any, theirs: Any, head: nn.Module | None = None, **settings: Any) -> np.ndarray:
    found: np.ndarray = term(name, **settings).loss(batch(ours, theirs), head).detach().numpy()
    return found


def attention(maps: np.ndarray, power: float) -> np.ndarray:
    """F_sum^p of one row as a vector of length 1."""
    flat = np.zeros(maps[0].size)
    for channel in maps:
        flat += np.abs(channel.ravel()) ** power
    return flat / np.sqrt((flat**2).sum())


def mmd(ours: np.ndarray, theirs: np.ndarray, kernel: str) -> float:
    """Of one row, pair by pair."""
    samples = [[channel.ravel() / np.sqrt((channel**2).sum()) for channel in maps] for maps in (ours, theirs)]
    width = np.mean([((s - t) ** 2).sum() for s in samples[0] for t in samples[1]])
    k = {
        "polynomial": lambda x, y: (x @ y) ** 2,
        "linear": lambda x, y: x @ y,
        "gaussian": lambda x, y: np.exp(-((x - y) ** 2).sum() / (2 * width)),
    }[kernel]

    def mean(one: list[np.ndarray], other: list[np.ndarray]) -> float:
        return sum(k(x, y) for x in one for y in other) / (len(one) * len(other))

    return mean(samples[1], samples[1]) + mean(samples[0], samples[0]) - 2 * mean(samples[0], samples[1])


def halved(maps: np.ndarray) -> np.ndarray:
    """The averages of every 2 x 2 places."""
    rows, channels, height, width = maps.shape
    return maps.reshape(rows, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))


def test_hint_is_half_the_mean_squared_difference() -> None:
    wanted = [((OURS[row] - ALIKE[row]) ** 2).sum() / 2 / OURS[row].size for row in range(2)]
    np.testing.assert_allclose(value("hint", OURS, ALIKE), wanted)


def test_hint_regresses_the_teachers_channels_place_by_place() -> None:
    matrix, bias = RNG.normal(size=(7, 4)), RNG.normal(size=7)
    regressor = nn.Conv2d(4, 7, 1, dtype=torch.float64)
    regressor.load_state_dict({"weight": torch.tensor(matrix)[..., None, None], "bias": torch.tensor(bias)})
    regressed = np.einsum("oc,rchw->rohw", matrix, OURS) + bias[:, None, None]
    got = value("hint", OURS, THEIRS, nn.ModuleList([regressor]))
    np.testing.assert_allclose(got, ((regressed - THEIRS) ** 2).mean(axis=(1, 2, 3)) / 2)


def test_hint_has_a_1x1_convolution_only_where_channels_differ() -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((4, 8), seed=1)
    hint = term("hint")
    head = hint.head(*nets.outlines(hint, student, teacher))
    assert isinstance(head, nn.ModuleList)
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(8, 6, 1, 1), (8,)]
    assert isinstance(head[0], nn.Identity)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_attention_transfer_is_its_formula(power: float) -> None:
    wanted = [np.linalg.norm(attention(OURS[row], power) - attention(THEIRS[row], power)) for row in range(2)]
    np.testing.assert_allclose(value("attention_transfer", OURS, THEIRS, power=power), wanted)


def test_attention_transfer_by_hand() -> None:
    """Activity of (3, 4) and (4, 3) in two places, power 1: (0.6, 0.8) less (0.8, 0.6) has length 0.2 √2."""
    ours, theirs = np.array([[[[3.0, -1.0]], [[0.0, 3.0]]]]), np.array([[[[4.0, 3.0]]]])
    assert value("attention_transfer", ours, theirs, power=1) == pytest.approx([0.2 * np.sqrt(2)])


def test_attention_transfer_squares_by_default_and_refuses_roots() -> None:
    np.testing.assert_array_equal(
        value("attention_transfer", OURS, THEIRS), value("attention_transfer", OURS, THEIRS, power=2)
    )
    with pytest.raises(ValidationError):
        term("attention_transfer", power=0.5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nst_is_the_mmd_of_channels(kernel: str) -> None:
    wanted = [mmd(OURS[row], THEIRS[row], kernel) for row in range(2)]
    np.testing.assert_allclose(value("nst", OURS, THEIRS, kernel=kernel), wanted)


def test_nst_takes_the_polynomial_kernel_and_the_last_maps_by_default() -> None:
    default, spelled = term("nst"), term("nst", kernel="polynomial", layer_map="last")
    assert default == spelled


@pytest.mark.parametrize("kernel", KERNELS)
def test_nst_knows_no_order_of_channels_and_no_scale(kernel: str) -> None:
    shuffled = 3 * THEIRS[:, ::-1].copy()
    np.testing.assert_allclose(value("nst", THEIRS, shuffled, kernel=kernel), [0, 0], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_equal_maps_have_no_distance(name: str) -> None:
    np.testing.assert_allclose(value(name, OURS, OURS), [0, 0], atol=1e-12)
    assert (value(name, OURS, ALIKE) > 1e-3).all()


@pytest.mark.parametrize("name", ["hint", "nst"])
def test_the_larger_map_is_pooled_to_the_smaller(name: str) -> None:
    small = RNG.normal(size=(2, 4, 3, 2))
    np.testing.assert_allclose(value(name, small, OURS), value(name, small, halved(OURS)))
    np.testing.assert_allclose(value(name, OURS, small), value(name, halved(OURS), small))
    tall, wide = RNG.normal(size=(2, 4, 6, 2)), RNG.normal(size=(2, 4, 3, 4))
    assert value(name, tall, wide).shape == (2,)


def test_attention_is_pooled_not_the_activations() -> None:
    small = RNG.normal(size=(2, 4, 3, 2))
    squares = halved(OURS**2)  # their sum over channels is the pooled attention
    np.testing.assert_allclose(
        value("attention_transfer", OURS, small), value("attention_transfer", squares**0.5, small)
    )


def test_dead_channels_have_finite_gradients() -> None:
    ours = torch.zeros(2, 4, 6, 4, dtype=torch.float64, requires_grad=True)
    for name in ("attention_transfer", "nst"):
        [gradient] = torch.autograd.grad(term(name).loss(batch(ours, ALIKE)).sum(), ours)
        assert gradient.abs().max() < 10


@pytest.mark.parametrize(
    ("name", "settings"),
    [("hint", {}), ("attention_transfer", {"power": 2}), ("attention_transfer", {"power": 1})]
    + [("nst", {"kernel": kernel}) for kernel in ("polynomial", "linear")],
)
def test_gradients(name: str, settings: dict[str, Any]) -> None:
    start = torch.tensor(OURS, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: term(name, **settings).loss(batch(maps, ALIKE)), start)


def test_the_gaussian_kernels_width_is_a_constant() -> None:
    """With the width of the start held fast, finite differences give the gradient."""
    start, direction, step = torch.tensor(OURS, requires_grad=True), RNG.normal(size=OURS.shape), 1e-6
    [gradient] = torch.autograd.grad(term("nst", kernel="gaussian").loss(batch(start, ALIKE)).sum(), start)

    def units(maps: np.ndarray) -> np.ndarray:
        flat = maps.reshape(2, 4, -1)
        return flat / np.linalg.norm(flat, axis=-1, keepdims=True)

    def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((x[:, :, None] - y[:, None]) ** 2).sum(axis=-1)

    theirs = units(ALIKE)
    width = squares(units(OURS), theirs).mean(axis=(1, 2), keepdims=True)

    def fixed(maps: np.ndarray) -> float:
        ours = units(maps)
        own, cross = (np.exp(-squares(ours, y) / (2 * width)).mean(axis=(1, 2)).sum() for y in (ours, theirs))
        return own - 2 * cross

    slope = (fixed(OURS + step * direction) - fixed(OURS - step * direction)) / (2 * step)
    assert (gradient.numpy() * direction).sum() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_of_layers_add_up(name: str) -> None:
    ours, theirs = (torch.tensor(maps) for maps in (OURS, ALIKE))
    pictures = torch.zeros(2, 1, 12, 8)
    two = Batch({"hidden_states": (pictures, ours, theirs)}, {"hidden_states": (pictures, theirs, 2 * ours)})
    crossed = term(name, layer_map=[[0, 1], [1, 0]]).loss(two).numpy()
    np.testing.assert_allclose(crossed, value(name, OURS, 2 * OURS) + value(name, ALIKE, ALIKE))
    straight = term(name, layer_map="uniform").loss(two).numpy()
    np.testing.assert_allclose(straight, value(name, OURS, ALIKE) + value(name, ALIKE, 2 * OURS))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_autocast_change_nothing_but_the_input(name: str) -> None:
    ours, theirs = (torch.tensor(maps).bfloat16() for maps in (OURS, ALIKE))
    wanted = term(name).loss(batch(ours, theirs, torch.float32))
    got = term(name).loss(batch(ours, theirs, torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = term(name).loss(batch(ours, theirs, torch.bfloat16))
    for computed in (got, autocast):
        assert computed.dtype == torch.float32
        torch.testing.assert_close(computed, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("layer_map", "wanted"), [("uniform", [2, 3]), ("bottom", [1, 2]), ("last", [3]), ([[0, 2], [1, 0]], [1, 3])]
)
def test_it_asks_for_the_layers_that_it_reads(name: str, layer_map: Any, wanted: list[int]) -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((4, 8, 5), seed=1)
    nets.check_layers(term(name, layer_map=layer_map), student, teacher, nets.pixels(), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_cannot_compare_is_told_before_training(name: str) -> None:
    small, large, texts = nets.cnn((4, 6)), nets.cnn((4, 8, 5)), nets.bert()
    assert nets.problems(term(name), small, large) == []
    assert nets.problems(term(name, layer_map=[[0, 3]]), small, large) == [
        f"loss.terms.{name}: layer_map: [0, 3] is out of range; the student has layers 0 to 1, the teacher 0 to 2"
    ]
    [problem] = nets.problems(term(name, layer_map="top"), large, small)
    assert "needs a teacher with as many layers as the student (2 < 3)" in problem
    wanted = f"loss.terms.{name}: {name} compares feature maps [rows, channels, height, width], but layer 1 of"
    assert nets.problems(term(name, layer_map="last"), texts, texts) == [
        f"{wanted} the student puts out [2, 5, 32]", f"{wanted} the teacher puts out [2, 5, 32]",
    ]  # fmt: skip
    assert nets.problems(term(name, layer_map="last"), nets.mlp(), small) == [f"{wanted} the student puts out [2, 10]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_small_net_learns_from_a_larger_one_of_another_size(name: str) -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((8, 12), seed=1)
    losses = nets.losses_of_training(term(name, layer_map="uniform"), student, teacher, nets.pixels())
    assert losses[-1] < 0.8 * losses[0]
    assert all(np.isfinite(losses))


def test_regressors_are_trained_and_do_not_ship() -> None:
    student, teacher = nets.cnn((4, 6)), nets.cnn((8, 12), seed=1)
    trained = nets.distiller(term("hint"), student, teacher)
    before = [parameter.clone() for parameter in trained.heads.parameters()]
    assert [tuple(parameter.shape) for parameter in before] == [(8, 4, 1, 1), (8,), (12, 6, 1, 1), (12,)]
    own = set(student.state_dict())
    signals = nets.said(teacher, frozenset({"hidden_states"}), nets.pixels())
    trained(nets.pixels(), None, signals)["loss"].backward()
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    assert all(bool((a != b).any()) for a, b in zip(before, trained.heads.parameters(), strict=True))
    assert set(trained.release().state_dict()) == own


def gradient_of(name: str, maps: Tensor) -> Tensor:
    [gradient] = torch.autograd.grad(term(name).loss(batch(maps, ALIKE)).sum(), maps)
    return gradient


@pytest.mark.parametrize("name", NAMES)
def test_a_step_down_its_gradient_brings_the_student_nearer(name: str) -> None:
    start = torch.tensor(OURS, requires_grad=True)
    moved = (start - 1e-3 * gradient_of(name, start)).detach().numpy()
    assert (value(name, moved, ALIKE) < value(name, OURS, ALIKE)).all()
