"""Weights as numbers into a short list of values: a runtime looks them up once, when it loads the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kdc.compress.plan import ModulePrecision
from kdc.errors import KdcError

if TYPE_CHECKING:
    import onnx

NIBBLES = 16
"""Lists of so many values are numbered in 4 bits."""


def share_values(model: onnx.ModelProto, codebooks: Mapping[str, ModulePrecision]) -> None:
    """Change `model` in place: the weights of the nodes named in `codebooks` become lookups."""
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    lookups: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name not in codebooks or node.input[1] in done:
            continue
        if node.input[1] not in weights:
            raise KdcError(f"{node.name} has no weight of its own to look up", "report this as a bug", exit_code=1)
        name = node.input[1]
        done.add(name)
        tensor = weights[name]
        values = np.array(codebooks[node.name].codebook, np.float32)
        numbers = nearest(onnx.numpy_helper.to_array(tensor), values)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(
            [onnx.numpy_helper.from_array(values, f"{name}_values"), _numbers(numbers, len(values), f"{name}_numbers")]
        )
        lookups += [
            onnx.helper.make_node(
                "Cast", [f"{name}_numbers"], [f"{name}_wide"], f"{name}_cast", to=onnx.TensorProto.INT32
            ),
            onnx.helper.make_node("Gather", [f"{name}_values", f"{name}_wide"], [name], f"{name}_lookup"),
        ]
    nodes = [*lookups, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def nearest(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The number of the value that is nearest to each weight; `values` are in order."""
    return np.searchsorted((values[:-1] + values[1:]) / 2, weight).astype(np.uint8)


def _numbers(numbers: np.ndarray, count: int, name: str) -> onnx.TensorProto:
    import onnx

    if count > NIBBLES:
        return onnx.numpy_helper.from_array(numbers, name)
    flat = numbers.ravel()
    padded = np.concatenate([flat, np.zeros(len(flat) % 2, np.uint8)])
    packed = (padded[0::2] | (padded[1::2] << 4)).tobytes()
    return onnx.helper.make_tensor(name, onnx.TensorProto.UINT4, numbers.shape, packed, raw=True)
