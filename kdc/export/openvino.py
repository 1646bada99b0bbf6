"""OpenVINO on the CPU, in float or int8: one IR (`.xml` and `.bin`) a graph."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Executed, Graph, Runtime, Signature

PRECISION = ["kdc", "precision"]
"""Where a file notes what it is to be computed in."""
INTEGERS = {"i8", "u8"}
NO_WORK = {"Constant", "Const", "Parameter", "Input", "Result", "Output"}
"""What an IR and a compiled model call that which only holds or hands over a tensor."""


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    """Lowers through ONNX, which OpenVINO reads itself.

    Weights stay as they are in fp32 (its default is half of it); in bf16, which not every processor computes, they are
    stored in 16 bits.
    """

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "bf16", "int8_static"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "openvino")
    name: Literal["openvino"] = "openvino"

    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        from kdc.export.onnx_graph import export_onnx, modules_of, save_onnx, strip
        from kdc.export.onnx_quantize import quantize

        openvino = import_openvino()
        half = plan.default == "bf16"
        with tempfile.TemporaryDirectory(prefix="kdc-openvino-") as scratch:
            for graph in graphs:
                source = Path(scratch, f"{graph.signature.name}.onnx")
                model = export_onnx(graph)
                scopes = modules_of(model, graph)
                strip(model)
                save_onnx(quantize(model, scopes, plan) if plan.modules else model, source)
                lowered = openvino.Core().read_model(source)
                lowered.set_rt_info("bf16" if half else "f32", PRECISION)
                openvino.save_model(lowered, ir_path(folder, graph.signature), compress_to_fp16=half)

    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        return {
            signature.name: _callable(_compiled(_read(folder, signature), threads), signature)
            for signature in signatures
        }

    def executed(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Executed:
        """MACs counted in the IR at the shapes of `feeds`; the model as it ships tells its kernels and their types."""
        macs = int8 = operators = kernels = 0
        fused = Counter[str]()
        for signature in signatures:
            model = _read(folder, signature)
            feed = feeds[signature.name]
            model.reshape({i: list(feed[port.name].shape) for i, port in enumerate(signature.inputs)})
            counts = {
                operation.get_friendly_name(): _macs_of(operation)
                for operation in model.get_ops()
                if operation.get_type_name() not in NO_WORK
            }
            macs += sum(counts.values())
            operators += len(counts)
            for kernel in _compiled(_read(folder, signature), None).get_runtime_model().get_ops():
                info = kernel.get_rt_info()
                kind = info["layerType"].astype(str)
                if kind in NO_WORK:
                    continue
                kernels += 1
                made_of = [name for name in info["originalLayersNames"].astype(str).split(",") if name in counts]
                fused[kind] += len(made_of) > 1
                if "runtimePrecision" in info and info["runtimePrecision"].astype(str) in INTEGERS:
                    int8 += sum(counts[name] for name in made_of)
        return Executed(macs=macs, int8=int8, operators=operators, kernels=kernels, fused=+fused)


def _read(folder: Path, signature: Signature) -> Any:
    return import_openvino().Core().read_model(ir_path(folder, signature))


def _compiled(model: Any, threads: int | None) -> Any:
    # Left to itself, the CPU plugin computes in bf16 where the processor can.
    hint = model.get_rt_info(PRECISION).astype(str) if model.has_rt_info(PRECISION) else "f32"
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return import_openvino().Core().compile_model(model, "CPU", settings)


def import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise KdcError("openvino is not installed", "pip install 'kdc[openvino]'") from error
    return openvino


def ir_path(folder: Path, signature: Signature) -> Path:
    return folder / f"{signature.name}.xml"


def _callable(compiled: Any, signature: Signature) -> Callable[[Arrays], Arrays]:
    """Inputs and outputs go by their places: a graph of OpenVINO's may have some without a name."""

    def call(arrays: Arrays) -> Arrays:
        results = compiled([arrays[port.name] for port in signature.inputs])
        return {port.name: results[i] for i, port in enumerate(signature.outputs)}

    return call


def _macs_of(operation: Any) -> int:
    """MACs of one operation of static shape: size of its output times the length of the sum behind each element."""
    kind = operation.get_type_name()
    if kind == "MatMul":
        rows = operation.input_value(0).shape
        return math.prod(operation.output(0).shape) * rows[-2 if operation.get_attributes()["transpose_a"] else -1]
    if kind == "LSTMSequence":
        input_weight, state_weight = (math.prod(operation.input_value(i).shape) for i in (4, 5))
        return math.prod(operation.input_value(0).shape[:-1]) * (input_weight + state_weight)
    if kind in ("Convolution", "GroupConvolution"):
        weights = operation.input_value(1).shape  # [out, in, ...], behind the groups where there are some
        return math.prod(operation.output(0).shape) * math.prod(weights[1 if kind == "Convolution" else 2 :])
    return 0
