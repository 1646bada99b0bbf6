"""ONNX Runtime on the CPU, in float or integers: one `.onnx` file a graph."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Executed, Graph, Runtime, Signature
from kdc.export.onnx_graph import export_onnx, modules_of, save_onnx, strip
from kdc.export.onnx_quantize import quantize

LSTM_OPS = {"LSTM", "DynamicQuantizeLSTM"}
INT8_MATMUL_OPS = {
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "MatMulNBits",
}  # fmt: skip
INT8_OPS = {*INT8_MATMUL_OPS, "DynamicQuantizeLSTM", "QLinearConv"}
MATMUL_OPS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", *INT8_MATMUL_OPS}
CONV_OPS = {"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv"}
MOVERS = {"Cast", "Reshape", "Transpose", "ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"}
"""What it puts between kernels to turn one layout or type into another."""


@RUNTIMES.register("onnxruntime")
class OnnxRuntime(Runtime):
    """Lowers through `torch.onnx.export(dynamo=True)`, and quantizes the graph as the plan says."""

    precisions: ClassVar[frozenset[str]] = frozenset(
        {"fp32", "int8", "int8_static", "int8_weights", "int4_weights", "codebook"}
    )
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")
    name: Literal["onnxruntime"] = "onnxruntime"

    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        for graph in graphs:
            model = export_onnx(graph)
            scopes = modules_of(model, graph)
            strip(model)
            save_onnx(quantize(model, scopes, plan) if plan.modules else model, _path(folder, graph.signature))

    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        return {signature.name: _callable(_session(folder, signature, threads)) for signature in signatures}

    def executed(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Executed:
        """Read off onnxruntime's own profile: the kernels that ran, and for MACs the shapes that they saw.

        Fused are kernels of kinds that the file has not, or fewer of: a convolution that took in a sum is not told.
        """
        import onnx

        macs = int8 = operators = kernels = 0
        fused = Counter[str]()
        for signature in signatures:
            feed = feeds[signature.name]
            for kernel, args in _profile(folder, signature, feed, countable=True):
                if kernel in MATMUL_OPS | CONV_OPS | LSTM_OPS:
                    count = _macs_of(args, kernel)
                    macs += count
                    int8 += count if kernel in INT8_OPS else 0
            file = onnx.load(_path(folder, signature), load_external_data=False)
            written = Counter(node.op_type for node in file.graph.node)
            ran = Counter(kernel for kernel, _ in _profile(folder, signature, feed, countable=False))
            operators, kernels = operators + written.total(), kernels + ran.total()
            fused += Counter({kind: count for kind, count in (ran - written).items() if kind not in MOVERS})
        return Executed(macs=macs, int8=int8, operators=operators, kernels=kernels, fused=fused)


def _profile(
    folder: Path, signature: Signature, feed: Arrays, *, countable: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every kernel of one call with what is noted of it: as it ships, or with shapes that its MACs can be read off."""
    with tempfile.TemporaryDirectory() as scratch:
        session = _session(folder, signature, None, profile=f"{scratch}/profile", countable=countable)
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            yield event["args"]["op_name"], event["args"]


def _session(
    folder: Path, signature: Signature, threads: int | None, *, profile: str | None = None, countable: bool = False
) -> Any:
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
    if countable:
        # the level above pads channels to the width of a vector, and would count the padding
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape to read
    return onnxruntime.InferenceSession(_path(folder, signature), options, providers=["CPUExecutionProvider"])


def _path(folder: Path, signature: Signature) -> Path:
    return folder / f"{signature.name}.onnx"


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
    if operator not in CONV_OPS:
        return math.prod(output) * int(inputs[0][-1])
    weight = inputs[3] if operator == "QLinearConv" else inputs[1]  # behind the input's scale and zero
    summed = math.prod(weight[1:])
    return math.prod(output) * summed
