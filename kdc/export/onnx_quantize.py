"""A precision plan realized in an ONNX graph: onnxruntime's quantizers, and ranges of our own where they are known."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdc.compress.plan import ModulePrecision, PrecisionPlan
from kdc.export.onnx_codebook import share_values
from kdc.export.onnx_graph import TWO_GIB, save_onnx
from kdc.export.onnx_smooth import smooth
from kdc.export.onnx_static import quantize_static, store_tables
from kdc.quiet import quiet

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("MatMul", "Gemm", "Conv")
"""What multiplies by weights, beside adding biases."""
QUANTIZABLE = ["MatMul", "Gemm", "LSTM"]
"""What onnxruntime's quantizers take."""
ACCURACY_LEVEL = 4
"""Of `MatMulNBits`: activations in int8; 1 would compute in fp32."""


def quantize(model: onnx.ModelProto, scopes: Mapping[str, str | None], plan: PrecisionPlan) -> onnx.ModelProto:
    """The plan's modules in integers, each kind of precision by itself. `scopes` are the modules of nodes by name."""
    _drop_stale_shapes(model)
    by_precision: dict[ModulePrecision, list[onnx.NodeProto]] = {}
    ranges: dict[str, ModulePrecision] = {}
    codebooks: dict[str, ModulePrecision] = {}
    factors: dict[str, tuple[float, ...]] = {}
    tables: list[str] = []
    for node in model.graph.node:
        precision = plan.modules.get(scopes.get(node.name) or "")
        if precision is None or _is_table(precision) != (node.op_type == "Gather"):
            continue
        weighted = node.op_type in WEIGHTED
        if node.op_type == "Gather":
            tables.append(node.name)
        if precision.smooth is not None and weighted:
            factors[node.name] = precision.smooth
        if precision.codebook is not None and weighted:
            codebooks |= dict.fromkeys(_names(node), precision)
        elif precision.reads is not None and weighted:
            ranges |= dict.fromkeys(_names(node), precision)
        elif node.op_type in QUANTIZABLE:
            by_precision.setdefault(precision.model_copy(update={"smooth": None}), []).append(node)
    smooth(model, factors)
    for number, (precision, nodes) in enumerate(by_precision.items()):
        known = _tensors(model)
        names = [name for node in nodes for name in _names(node)]
        model = _in_blocks(model, names, precision) if precision.group else _dynamic(model, names, precision)
        _rename(model, {name: f"run{number}_{name}" for name in _tensors(model) - known})
    store_tables(model, tables)
    quantize_static(model, ranges)
    share_values(model, codebooks)
    return model


def _names(node: onnx.NodeProto) -> list[str]:
    """What a node is called before and after onnxruntime's quantizers turn every Gemm into a MatMul."""
    return [node.name, f"{node.name}_MatMul"]


def _is_table(precision: ModulePrecision) -> bool:
    """Whether this is how an embedding is stored."""
    return precision.weights_only and precision.group is None and precision.codebook is None


def _dynamic(model: onnx.ModelProto, names: list[str], precision: ModulePrecision) -> onnx.ModelProto:
    """These nodes by onnxruntime's dynamic quantizer."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch, quiet():
        source, target = Path(scratch, "float.onnx"), Path(scratch, "int8.onnx")
        save_onnx(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=QUANTIZABLE,
            per_channel=precision.per_channel,
            reduce_range=precision.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
            use_external_data_format=model.ByteSize() >= TWO_GIB,
        )
        return onnx.load(target)


def _in_blocks(model: onnx.ModelProto, names: list[str], precision: ModulePrecision) -> onnx.ModelProto:
    """These linears with weights in blocks of few bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    assert precision.group is not None
    plain = ONNXModel(model)
    plain.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        plain.model,
        nodes_to_exclude=[n.name for n in plain.nodes() if n.name not in names],
        algo_config=DefaultWeightOnlyQuantConfig(
            block_size=precision.group,
            is_symmetric=True,
            accuracy_level=ACCURACY_LEVEL,
            bits=4 if precision.dtype == "int4" else 8,
        ),
    )
    with quiet():
        quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _tensors(model: onnx.ModelProto) -> set[str]:
    """Names of weights and of what nodes put out."""
    return {weight.name for weight in model.graph.initializer} | {name for n in model.graph.node for name in n.output}


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """The next run of the quantizer would give the same names again, where it reads what this one added."""
    for weight in model.graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _drop_stale_shapes(model: onnx.ModelProto) -> None:
    """The quantizer transposes Gemm weights in place and then trips over the shapes noted for them before."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in initializers]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
