"""Rounding against onnxruntime's own operators, ranges and centers against NumPy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from scipy.stats import entropy
from sklearn.cluster import KMeans

from kdc.compress.cluster import kmeans
from kdc.compress.integers import fixed, in_groups, measured_now, weights_rounded
from kdc.compress.plan import ModulePrecision
from kdc.compress.ranges import BINS, LEVELS, Histogram, entropy_range, percentile_range

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(6, 40)).astype(np.float32) * np.linspace(0.1, 3, 6, dtype=np.float32)[:, None]
READ = (RANDOM.normal(size=(50, 40)) * 2 + 1).astype(np.float32)


def run_onnx(nodes: list[Any], constants: dict[str, np.ndarray], read: np.ndarray) -> np.ndarray:
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, read.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": read})
    return np.asarray(out)


@pytest.mark.parametrize("shift", [0.0, 9.0, -9.0])
def test_activations_are_rounded_as_onnxruntime_measures_them(shift: float) -> None:
    """`shift`: all values of one sign, where zero has to be among the steps nevertheless."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    wanted = run_onnx(nodes, {}, READ + np.float32(shift))
    np.testing.assert_allclose(measured_now(torch.from_numpy(READ + np.float32(shift))), wanted, atol=2e-6)


def test_activations_within_a_known_range_are_rounded_as_onnx_says() -> None:
    low, high = -2.0, 4.375
    scale, zero = np.float32((high - low) / 255), np.uint8(round(2.0 / ((high - low) / 255)))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    wanted = run_onnx(nodes, {"s": scale, "z": zero}, READ)
    np.testing.assert_allclose(fixed(torch.from_numpy(READ), (low, high)), wanted, atol=2e-6)
    assert READ.min() < low
    assert READ.max() > high, "something was cut off"


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_symmetric_about_zero(*, reduce_range: bool, largest: int, per_channel: bool) -> None:
    precision = ModulePrecision(dtype="int8", per_channel=per_channel, reduce_range=reduce_range)
    sizes = np.abs(WEIGHT).max(axis=1, keepdims=True) if per_channel else np.abs(WEIGHT).max()
    wanted = np.round(WEIGHT / (sizes / largest)) * (sizes / largest)
    np.testing.assert_allclose(weights_rounded(torch.from_numpy(WEIGHT), precision), wanted, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("group", [16, 32])
def test_blocks_of_weights_are_rounded_as_onnxruntime_packs_them(dtype: Any, bits: int, group: int) -> None:
    """40 inputs: the last block of an output is not full."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    node = helper.make_node("MatMul", ["x", "w"], ["y"], "linear")
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(WEIGHT.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    config = DefaultWeightOnlyQuantConfig(block_size=group, is_symmetric=True, bits=bits)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    session = onnxruntime.InferenceSession(quantizer.model.model.SerializeToString())
    (packed,) = session.run(None, {"x": np.eye(40, dtype=np.float32)})
    ours = weights_rounded(torch.from_numpy(WEIGHT), ModulePrecision(dtype=dtype, weights_only=True, group=group))
    np.testing.assert_allclose(ours.T, packed, atol=2e-6)


def test_weights_become_the_nearest_value_of_a_codebook() -> None:
    values = (-1.0, -0.25, 0.0, 0.5, 2.0)
    precision = ModulePrecision(dtype="codebook", weights_only=True, codebook=values)
    wanted = np.array(values)[np.abs(WEIGHT[..., None] - np.array(values)).argmin(axis=-1)]
    np.testing.assert_array_equal(weights_rounded(torch.from_numpy(WEIGHT), precision), wanted)


def test_activations_beside_blocks_of_weights_are_rounded_by_groups() -> None:
    padded = np.pad(READ, ((0, 0), (0, 24))).reshape(50, 2, 32)
    scale = np.abs(padded).max(axis=2, keepdims=True) / 127
    wanted = (np.round(padded / scale) * scale).reshape(50, 64)[:, :40]
    np.testing.assert_allclose(in_groups(torch.from_numpy(READ), 32), wanted, rtol=1e-5, atol=1e-6)


def test_gradients_pass_through_rounding_but_not_what_is_cut_off() -> None:
    read = torch.tensor([-3.0, -1.0, 0.3, 5.0], requires_grad=True)
    fixed(read, (-2.0, 4.0)).sum().backward()
    assert read.grad is not None
    assert read.grad.tolist() == [0, 1, 1, 0]
    weight = torch.from_numpy(WEIGHT).requires_grad_()
    (weights_rounded(weight, ModulePrecision(dtype="int8")) * 2).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full_like(weight, 2))


def histogram(values: np.ndarray) -> Histogram:
    counts, _ = np.histogram(values, BINS, (values.min(), values.max()))
    return Histogram(counts.astype(float), float(values.min()), float(values.max()))


def test_percentiles_are_numpys_to_a_bin() -> None:
    values = np.concatenate([RANDOM.normal(size=100_000), [40.0]])
    width = (values.max() - values.min()) / BINS
    for percentile in (95, 99.9):
        low, high = percentile_range(histogram(values), percentile)
        assert low == pytest.approx(np.percentile(values, 100 - percentile), abs=2 * width)
        assert high == pytest.approx(np.percentile(values, percentile), abs=2 * width)
    assert percentile_range(histogram(values), 99.9999999)[1] == pytest.approx(40, abs=2 * width)


def divergence(sizes: list[float], bins: int, levels: int) -> float:
    """KL(P, Q) as the slides' pseudocode has it, bin by bin."""
    wanted = sizes[:bins]
    wanted[-1] += sum(sizes[bins:])
    spread = [0.0] * bins
    for level in range(levels):
        own = [i for i in range(bins) if i * levels // bins == level]
        filled = [i for i in own if sizes[i] > 0]
        for i in filled:
            spread[i] = sum(sizes[j] for j in own) / len(filled)
    return float(entropy(wanted, spread))


def test_entropy_cuts_where_least_is_lost() -> None:
    values = np.concatenate([RANDOM.normal(size=50_000), np.array([30.0, -28.0])])
    low, high = entropy_range(histogram(values))
    assert 2.5 < high < 12, "what is far and rare is cut"
    assert -low == pytest.approx(high)
    width = 58 / BINS
    sizes = np.bincount((np.abs(values) / width).astype(int)).tolist()
    losses = {bins: divergence(sizes, bins, LEVELS) for bins in range(LEVELS, len(sizes) + 1, LEVELS // 8)}
    best = min(losses, key=lambda bins: losses[bins])
    assert high == pytest.approx(best * width, rel=0.15)
    assert losses[round(high / width)] == pytest.approx(losses[best], rel=0.1)
    apart = np.concatenate([RANDOM.normal(scale=0.5, size=50_000), np.full(250, -100.0)])
    assert entropy_range(histogram(apart))[0] == pytest.approx(-100), "what is beyond a gap has nowhere to go"
    even = RANDOM.uniform(-1, 3, size=200_000)
    assert entropy_range(histogram(even))[1] == pytest.approx(3, rel=0.02), "nothing is rare here"


def test_centers_are_as_good_as_scikit_learns() -> None:
    values = RANDOM.normal(size=5_000)
    ours = kmeans(values, 16)
    start = np.linspace(values.min(), values.max(), 16)[:, None]
    theirs = KMeans(16, init=start, n_init=1, max_iter=300, tol=0).fit(values[:, None])
    inertia = (np.abs(values[:, None] - ours).min(axis=1) ** 2).sum()
    assert inertia <= theirs.inertia_ * 1.02
    groups = np.concatenate([np.full(10, -3.0), np.full(5, 0.5), np.full(7, 8.0)])
    np.testing.assert_array_equal(kmeans(groups, 16), [-3, 0.5, 8])
