"""What single graph files say of themselves: `.onnx`, and OpenVINO's IR (`.xml` and `.bin`). Nothing is run here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError
from kdc.export.base import Port
from kdc.export.openvino import import_openvino

if TYPE_CHECKING:
    import onnx

DTYPES = frozenset({"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"})
FLOATS = {"FLOAT16": "fp16", "BFLOAT16": "bf16"}
IR_FLOATS = {"f16": "fp16", "bf16": "bf16", "f32": "fp32"}
ROUNDED = frozenset({"i8", "u8", "i4", "u4"})
"""Types of an IR's weights."""


@dataclass(frozen=True)
class GraphFile:
    """One graph; a dynamic axis of its ports has a name of any kind."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: Mapping[str, Path]
    """By the names that they need beside each other when the graph is called `forward`."""
    precision: str
    """int8 where it has quantized operators or weights, else what its weights are."""


def read_graph(path: Path) -> GraphFile:
    """Read a `.onnx` or `.xml` file; KdcError where it is not one, or lacks a file that it needs."""
    return _read_onnx(path) if path.suffix == ".onnx" else _read_ir(path)


def _read_onnx(path: Path) -> GraphFile:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # of protobuf, which onnx does not pass on
        raise KdcError(f"{path} is no ONNX file", "export it again") from error
    if not graph.node or not graph.output:
        raise KdcError(f"{path} is no ONNX file: it holds no graph", "export it again")
    weights = {tensor.name: tensor for tensor in graph.initializer}
    vocabularies = _vocabularies(graph, weights)
    inputs = [_onnx_port(value, path, vocabularies) for value in graph.input if value.name not in weights]
    return GraphFile(
        tuple(inputs),
        tuple(_onnx_port(value, path, {}) for value in graph.output),
        {"forward.onnx": path, **_external_files(path, weights)},
        _onnx_precision(graph, weights),
    )


def _onnx_port(value: onnx.ValueInfoProto, path: Path, vocabularies: Mapping[str, int]) -> Port:
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise KdcError(f"{path}: '{value.name}' is no tensor of known rank", "kdc runs graphs of plain tensors")
    axes = [dim.dim_value if dim.dim_value > 0 else f"axis {i}" for i, dim in enumerate(tensor.shape.dim)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return _port(value.name, dtype, tuple(axes), path, below=vocabularies.get(value.name))


def _vocabularies(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> dict[str, int]:
    """Input -> rows of the table that it is looked up in, through casts if there are any."""
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    tables = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in weights]
    return {source.get(node.input[1], node.input[1]): weights[node.input[0]].dims[0] for node in tables}


def _external_files(path: Path, weights: Mapping[str, onnx.TensorProto]) -> dict[str, Path]:
    """The files that hold weights, which must lie in the model's own folder."""
    places = sorted(
        {entry.value for tensor in weights.values() for entry in tensor.external_data if entry.key == "location"}
    )
    for place in places:
        if PurePosixPath(place).name != place:
            raise KdcError(f"{path} keeps weights in '{place}'", "they must lie in a file beside it")
        if not (path.parent / place).is_file():
            raise KdcError(f"{path} keeps its weights in {place}, which is not beside it", "copy both files")
    return {place: path.parent / place for place in places}


def _onnx_precision(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> str:
    import onnx

    operators = {node.op_type for node in graph.node}
    if any("uantize" in n or n.startswith("Q") or n.endswith(("Integer", "NBits")) for n in operators):
        return "int8"
    sizes: Counter[str] = Counter()
    for tensor in weights.values():
        sizes[onnx.TensorProto.DataType.Name(tensor.data_type)] += math.prod(tensor.dims)
    return FLOATS.get(sizes.most_common(1)[0][0], "fp32") if sizes else "fp32"


def _read_ir(path: Path) -> GraphFile:
    openvino = import_openvino()
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise KdcError(f"{path} has no {weights.name} beside it", "an OpenVINO IR is two files: copy both")
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise KdcError(f"{path} is no OpenVINO IR", "export it again") from error
    vocabularies = _ir_vocabularies(model)
    return GraphFile(
        tuple(_ir_port(port, i, path, vocabularies) for i, port in enumerate(model.inputs)),
        tuple(_ir_port(port, i, path, {}) for i, port in enumerate(model.outputs)),
        {"forward.xml": path, "forward.bin": weights},
        _ir_precision(model.get_ops()),
    )


def _ir_precision(operations: Sequence[Any]) -> str:
    """int8 where it has rounded operators or weights, else what most of its weights are."""
    sizes: Counter[str] = Counter()
    for operation in operations:
        if operation.get_type_name() == "FakeQuantize":
            return "int8"
        if operation.get_type_name() == "Constant":
            kind = operation.get_element_type().get_type_name()
            if kind in ROUNDED and len(operation.shape) > 1:
                return "int8"
            if kind in IR_FLOATS:
                sizes[kind] += math.prod(operation.shape)
    return IR_FLOATS[sizes.most_common(1)[0][0]] if sizes else "fp32"


def _ir_port(port: Any, place: int, path: Path, vocabularies: Mapping[str, int]) -> Port:
    shape = port.get_partial_shape()
    name = port.get_any_name() if port.get_names() else f"{place}"
    if shape.rank.is_dynamic:
        raise KdcError(f"{path}: '{name}' is no tensor of known rank", "kdc runs graphs of plain tensors")
    axes = tuple(size.get_length() if size.is_static else f"axis {i}" for i, size in enumerate(shape))
    below = vocabularies.get(port.get_node().get_friendly_name())
    return _port(name, port.get_element_type().to_dtype().name, axes, path, below=below)


def _ir_vocabularies(model: Any) -> dict[str, int]:
    """As `_vocabularies`, by the name of the input's node."""
    found = {}
    for operation in model.get_ops():
        if operation.get_type_name() == "Gather":
            table, index = operation.input_value(0).get_partial_shape(), operation.input_value(1).get_node()
            while index.get_type_name() == "Convert":
                index = index.input_value(0).get_node()
            if index.get_type_name() == "Parameter" and table.is_static:
                found[index.get_friendly_name()] = table[0].get_length()
    return found


def _port(name: str, dtype: str, axes: tuple[str | int, ...], path: Path, *, below: int | None) -> Port:
    if dtype not in DTYPES:
        raise KdcError(f"{path}: '{name}' is of {dtype}", f"kdc feeds {', '.join(sorted(DTYPES))}")
    return Port(name, dtype, axes, below)
