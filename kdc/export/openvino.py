"""OpenVINO on the CPU, fp32: one IR (`.xml` and `.bin`) a graph."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Graph, Macs, Runtime, Signature


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    """Lowers through ONNX, which OpenVINO reads itself, and keeps weights as they are (its default is half of fp32)."""

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "openvino")
    name: Literal["openvino"] = "openvino"

    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        from kdc.export.onnxruntime import export_onnx, save_onnx, strip

        openvino = import_openvino()
        with tempfile.TemporaryDirectory(prefix="kdc-openvino-") as scratch:
            for graph in graphs:
                source = Path(scratch, f"{graph.signature.name}.onnx")
                model = export_onnx(graph)
                strip(model)
                save_onnx(model, source)
                lowered = openvino.Core().read_model(source)
                openvino.save_model(lowered, ir_path(folder, graph.signature), compress_to_fp16=False)

    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        # Left to itself, the CPU plugin computes in bf16 where the processor can.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = import_openvino().Core()
        return {
            signature.name: _callable(core.compile_model(ir_path(folder, signature), "CPU", settings), signature)
            for signature in signatures
        }

    def macs(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Macs:
        """Counted in the IR, its shapes those of `feeds`."""
        core = import_openvino().Core()
        total = 0
        for signature in signatures:
            model = core.read_model(ir_path(folder, signature))
            feed = feeds[signature.name]
            model.reshape({i: list(feed[port.name].shape) for i, port in enumerate(signature.inputs)})
            total += sum(map(_macs_of, model.get_ops()))
        return Macs(total=total)


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
