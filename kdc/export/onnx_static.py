"""Known ranges in an ONNX graph: tensors rounded where nodes read and put them out, weights and biases in integers.

What comes are pairs of `QuantizeLinear` and `DequantizeLinear`, which runtimes melt into integer kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdc.compress.plan import ModulePrecision, Range, with_zero

if TYPE_CHECKING:
    import onnx


BIAS = 2**30
"""How many steps a bias may take, of the 2^31 that there are."""


def store_tables(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Change `model` in place: the embeddings that these nodes look up are kept in 8 bits, each from its smallest value
    to its largest."""
    graph = _Rewriter(model)
    for node in list(model.graph.node):
        if node.name in names and node.input[0] in graph.weights:
            graph.store(node)
    graph.finish()


def quantize_static(model: onnx.ModelProto, ranges: Mapping[str, ModulePrecision]) -> None:
    """Change `model` in place: the nodes named in `ranges` compute in int8.

    An activation is real = scale * (q - zero) with q from 0 to 255, a weight real = scale * q with q from -127 to 127
    (-64 to 64 with a reduced range), a bias in 32 bits by the product of both scales. Where a weight is so much smaller
    than its bias that this would not fit into 32 bits, all of a channel pruned away say, its scale is larger.
    """
    graph = _Rewriter(model)
    for node in list(model.graph.node):
        precision = ranges.get(node.name)
        if precision is not None:
            graph.quantize(node, precision)
    graph.finish()


class _Rewriter:
    """A graph whose nodes get rounded inputs and outputs, one after the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.graph = model.graph
        self.weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.readers = Counter(name for node in self.graph.node for name in node.input)
        self.readers.update(output.name for output in self.graph.output)
        self.before: dict[str, list[onnx.NodeProto]] = {}
        self.after: dict[str, list[onnx.NodeProto]] = {}
        self.rounded: dict[tuple[str, Range], str] = {}
        self.stored: dict[str, np.ndarray] = {}

    def quantize(self, node: onnx.NodeProto, precision: ModulePrecision) -> None:
        assert precision.reads is not None
        node.input[0] = self._rounded(node, node.input[0], precision.reads)
        axis = 0 if node.op_type == "Conv" or _flag(node, "transB") else 1
        node.input[1], scales = self._weight(node, axis if precision.per_channel else None, precision)
        if len(node.input) > 2:
            self._bias(node, _scale(precision.reads) * scales)
        if node.op_type == "Conv" and precision.puts_out is not None:
            self._output(node, precision.puts_out)

    def store(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        table = self.weights[source]
        limits = (float(table.min()), float(table.max()))
        scale, zero = _scale(limits), _zero(limits)
        name = f"{source}_table"
        if source not in self.stored:
            self.stored[source] = scale
            self._add(f"{name}_integers", np.clip(np.round(table / scale) + zero, 0, 255).astype(np.uint8))
            self._add(f"{name}_scale", scale)
            self._add(f"{name}_zero", zero)
        node.input[0], node.output[0] = f"{name}_integers", f"{target}_integers"
        inputs = [node.output[0], f"{name}_scale", f"{name}_zero"]
        self.after[node.name] = [_node("DequantizeLinear", inputs, target, f"{target}_dequantize")]

    def finish(self) -> None:
        nodes = list(self.graph.node)
        del self.graph.node[:]
        for node in nodes:
            self.graph.node.extend([*self.before.get(node.name, []), node, *self.after.get(node.name, [])])
        read = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _rounded(self, node: onnx.NodeProto, source: str, limits: Range) -> str:
        """`source` through 8 bits; nodes that read the same share it."""
        if (source, limits) not in self.rounded:
            name = f"{source}_in{len(self.rounded)}"
            for new in self._pair(name, source, name, limits):
                self._before(node, new)
            self.rounded[source, limits] = name
        return self.rounded[source, limits]

    def _pair(self, name: str, source: str, target: str, limits: Range) -> list[onnx.NodeProto]:
        scale, zero = self._add(f"{name}_scale", _scale(limits)), self._add(f"{name}_zero", _zero(limits))
        return [
            _node("QuantizeLinear", [source, scale, zero], f"{name}_integers", f"{name}_quantize"),
            _node("DequantizeLinear", [f"{name}_integers", scale, zero], target, f"{name}_dequantize"),
        ]

    def _weight(self, node: onnx.NodeProto, axis: int | None, precision: ModulePrecision) -> tuple[str, np.ndarray]:
        """A weight through integers, and its scales, one for each output or one for all. Shared layers share it."""
        source, largest = node.input[1], 64 if precision.reduce_range else 127
        name = f"{source}_rounded"
        if source not in self.stored:
            weight = self.weights[source]
            others = tuple(i for i in range(weight.ndim) if i != axis)
            sizes = np.abs(weight).max(axis=others, keepdims=True)
            scales = np.maximum(sizes / largest, self._least(node, precision, sizes.shape)).astype(np.float32)
            self.stored[source] = scales.reshape(-1 if axis is not None else ())
            inputs = [
                self._add(f"{name}_integers", np.round(weight / scales).astype(np.int8)),
                self._add(f"{name}_scale", self.stored[source]),
                self._add(f"{name}_zero", np.zeros_like(self.stored[source], np.int8)),
            ]
            settings = {} if axis is None else {"axis": axis}
            self._before(node, _node("DequantizeLinear", inputs, name, f"{name}_dequantize", **settings))
        return name, self.stored[source]

    def _least(self, node: onnx.NodeProto, precision: ModulePrecision, shape: tuple[int, ...]) -> np.ndarray:
        """The smallest scales of a weight, one an output or one for all, with which its bias fits into 32 bits."""
        assert precision.reads is not None
        read = float(_scale(precision.reads))
        least = np.full(shape, np.finfo(np.float32).tiny / min(read, 1))
        if len(node.input) > 2:
            sizes = np.abs(self.weights[node.input[2]].astype(np.float64))
            least = np.maximum(least, (sizes if least.size > 1 else sizes.max()).reshape(shape) / (read * BIAS))
        return least

    def _bias(self, node: onnx.NodeProto, scales: np.ndarray) -> None:
        bias, name = self.weights[node.input[2]], f"{node.name}_bias"
        integers = np.round(bias / scales.astype(np.float64)).astype(np.int32)
        inputs = [
            self._add(f"{name}_integers", integers),
            self._add(f"{name}_scale", scales),
            self._add(f"{name}_zero", np.zeros_like(scales, np.int32)),
        ]
        settings = {"axis": 0} if scales.ndim else {}
        self._before(node, _node("DequantizeLinear", inputs, name, f"{name}_dequantize", **settings))
        node.input[2] = name

    def _output(self, node: onnx.NodeProto, limits: Range) -> None:
        """What the node puts out through 8 bits; a ReLU behind it is done where no step lies below zero."""
        target = node.output[0]
        follower = next((n for n in self.graph.node if target in n.input), None)
        rectified = follower is not None and follower.op_type == "Relu" and self.readers[target] == 1
        if follower is not None and rectified and limits[0] >= 0:
            self.graph.node.remove(follower)
            target = follower.output[0]
        node.output[0] = f"{target}_exact"
        self.after[node.name] = self._pair(f"{target}_out", node.output[0], target, limits)

    def _before(self, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
        self.before.setdefault(node.name, []).append(new)

    def _add(self, name: str, value: Any) -> str:
        import onnx

        self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name


def _scale(limits: Range) -> np.ndarray:
    low, high = with_zero(limits)
    return np.array(max((high - low) / 255, np.finfo(np.float32).tiny), np.float32)


def _zero(limits: Range) -> np.ndarray:
    return np.array(np.round(-with_zero(limits)[0] / _scale(limits)), np.uint8)


def _node(operator: str, inputs: list[str], output: str, name: str, **settings: Any) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node(operator, inputs, [output], name, **settings)


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)
