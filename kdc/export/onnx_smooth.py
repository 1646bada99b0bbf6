"""Smoothing in an ONNX graph: inputs divided by known factors, weights multiplied by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def smooth(model: onnx.ModelProto, factors: Mapping[str, tuple[float, ...]]) -> None:
    """Change `model` in place: the linears named in `factors` compute the same from smoother inputs.

    Nodes that read the same tensor with the same factors share the division.
    """
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    divided: dict[tuple[str, tuple[float, ...]], str] = {}
    scaled: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if (own := factors.get(node.name)) is not None:
            key = (node.input[0], own)
            if key not in divided:
                name = divided[key] = f"{node.input[0]}_smooth{len(divided)}"
                values = (1 / np.array(own)).astype(np.float32)
                model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"{name}_factors"))
                nodes.append(onnx.helper.make_node("Mul", [node.input[0], f"{name}_factors"], [name], f"{name}_mul"))
            node.input[0] = divided[key]
            if node.input[1] not in scaled:  # layers that share a weight share its factors
                scaled.add(node.input[1])
                tensor = weights[node.input[1]]
                weight = onnx.numpy_helper.to_array(tensor)  # [inputs, outputs], or the other way round
                turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
                changed = weight * np.array(own, np.float32).reshape((1, -1) if turned else (-1, 1))
                tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
