"""ONNX Runtime on the CPU, fp32 or int8: one `.onnx` file a graph."""

from __future__ import annotations

import ast
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Graph, Macs, Runtime, Signature
from kdc.quiet import quiet

if TYPE_CHECKING:
    import onnx

LSTM_OPS = {"LSTM", "DynamicQuantizeLSTM"}
INT8_MATMUL_OPS = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"}
INT8_OPS = {*INT8_MATMUL_OPS, "DynamicQuantizeLSTM"}
MATMUL_OPS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", *INT8_MATMUL_OPS}
CONV_OPS = {"Conv", "FusedConv", "NhwcFusedConv"}
QUANTIZABLE = ["MatMul", "Gemm", "LSTM"]
"""What computes in int8 where the plan says so, by its name in float."""
TWO_GIB = 2**31


@RUNTIMES.register("onnxruntime")
class OnnxRuntime(Runtime):
    """Lowers through `torch.onnx.export(dynamo=True)` and quantizes with onnxruntime's own dynamic quantizer."""

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "int8"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")
    name: Literal["onnxruntime"] = "onnxruntime"

    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        for graph in graphs:
            path = folder / f"{graph.signature.name}.onnx"
            model = export_onnx(graph)
            scopes = {node.name: _module_of(node, graph.prefix) for node in model.graph.node}
            strip(model)
            if plan.modules:
                model = _quantize(model, scopes, plan)
            save_onnx(model, path)

    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        return {signature.name: _callable(_session(folder, signature, threads)) for signature in signatures}

    def macs(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Macs:
        """Read off onnxruntime's own profile: the kernels that ran, with the shapes that they saw."""
        total = int8 = 0
        for signature in signatures:
            with tempfile.TemporaryDirectory() as scratch:
                session = _session(folder, signature, None, profile=f"{scratch}/profile")
                session.run(None, feeds[signature.name])
                events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            for event in events:
                operator = event.get("args", {}).get("op_name", "") if event.get("cat") == "Node" else ""
                if operator in MATMUL_OPS | CONV_OPS | LSTM_OPS and event["name"].endswith("_kernel_time"):
                    count = _macs_of(event["args"], operator)
                    total += count
                    int8 += count if operator in INT8_OPS else 0
        return Macs(total=total, int8=int8)


def export_onnx(graph: Graph) -> onnx.ModelProto:
    """One graph as ONNX in float, its nodes noting the modules and the source lines that they came from."""
    import torch
    from onnxscript import optimizer

    from kdc.export.modules import export_program
    from kdc.export.recurrent import PLACEHOLDER, hold_lstms, onnx_lstm

    with quiet():
        exported = export_program(graph)
        recurrent = hold_lstms(exported)
        program = torch.onnx.export(
            exported,
            input_names=[port.name for port in graph.signature.inputs],
            output_names=[port.name for port in graph.signature.outputs],
            dynamo=True,
            optimize=True,
            verbose=False,
            custom_translation_table={PLACEHOLDER.default: onnx_lstm},
        )
        assert program is not None
        if recurrent:  # its weights were reordered: constants, but larger ones than the exporter folds
            optimizer.fold_constants(program.model, input_size_limit=TWO_GIB, output_size_limit=TWO_GIB)
            optimizer.remove_unused_nodes(program.model)
    return program.model_proto


def _module_of(node: onnx.NodeProto, prefix: str) -> str | None:
    """The module that a node was traced from, by the scopes that torch's exporter notes on it."""
    noted = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
    if noted is None:
        return None
    scopes = [scope for scope in ast.literal_eval(noted) if scope.startswith(prefix)]
    return scopes[-1].removeprefix(prefix) if scopes else None


def strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they name files of this machine and ship with every node."""
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
        item.doc_string = ""


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Weights that a protobuf cannot hold go into a file beside it."""
    import onnx

    onnx.save(model, path, save_as_external_data=model.ByteSize() >= TWO_GIB, location=f"{path.name}.data")


def _quantize(model: onnx.ModelProto, scopes: Mapping[str, str | None], plan: PrecisionPlan) -> onnx.ModelProto:
    """The plan's modules in int8, each kind of precision in one run of onnxruntime's dynamic quantizer."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _drop_stale_shapes(model)
    names_by_precision: dict[Any, list[str]] = {}
    for node in model.graph.node:
        precision = plan.modules.get(scopes.get(node.name) or "")
        weights_only = node.op_type == "Gather"
        eligible = weights_only or node.op_type in QUANTIZABLE
        if eligible and precision and precision.weights_only == weights_only:
            # the quantizer turns a Gemm into a MatMul of this name before it looks at its list
            names_by_precision.setdefault(precision, []).extend([node.name, f"{node.name}_MatMul"])
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "float.onnx"), Path(scratch, "int8.onnx")
        for number, (precision, names) in enumerate(names_by_precision.items()):
            known = _tensors(model)
            save_onnx(model, source)
            with quiet():
                quantize_dynamic(
                    source,
                    target,
                    op_types_to_quantize=["Gather"] if precision.weights_only else QUANTIZABLE,
                    per_channel=precision.per_channel,
                    reduce_range=precision.reduce_range,
                    weight_type=QuantType.QInt8,
                    nodes_to_quantize=names,
                    use_external_data_format=model.ByteSize() >= TWO_GIB,
                )
            model = onnx.load(target)
            _rename(model, {name: f"run{number}_{name}" for name in _tensors(model) - known})
    return model


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


def _session(folder: Path, signature: Signature, threads: int | None, *, profile: str | None = None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise KdcError("onnxruntime is not installed", "pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would log of an error, the exception says
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
        # the level above pads channels to the width of a vector, and would count the padding
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    path = folder / f"{signature.name}.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _callable(session: Any) -> Callable[[Arrays], Arrays]:
    outputs = [output.name for output in session.get_outputs()]

    def call(arrays: Arrays) -> Arrays:
        return dict(zip(outputs, session.run(outputs, arrays), strict=True))

    return call


def _macs_of(args: Mapping[str, Any], operator: str) -> int:
    """MACs of one kernel call: size of its output times the length of the sum behind each element."""
    inputs = [next(iter(entry.values())) for entry in args["input_type_shape"]]
    output = next(iter(args["output_type_shape"][0].values()))
    if operator in LSTM_OPS:  # four gates, each from the input and the state
        return math.prod(output) * 4 * (inputs[0][-1] + output[-1])
    summed = math.prod(inputs[1][1:]) if operator in CONV_OPS else inputs[0][-1]
    return math.prod(output) * summed
