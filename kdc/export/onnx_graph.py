"""One graph as ONNX: exported, its nodes told apart by the modules that they came from, and saved."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from kdc.export.base import Graph
from kdc.quiet import quiet

if TYPE_CHECKING:
    import onnx
    from onnxscript import ir

TWO_GIB = 2**31
OPSET = 21
"""The first that knows integers of 4 bits."""


def export_onnx(graph: Graph) -> onnx.ModelProto:
    """One graph as ONNX in float, its nodes noting the modules and the source lines that they came from."""
    import torch
    from onnxscript import optimizer

    from kdc.export.modules import export_program
    from kdc.export.onnx_attention import onnx_attention
    from kdc.export.recurrent import PLACEHOLDER, hold_lstms, onnx_lstm

    with quiet():
        exported = export_program(graph)
        recurrent = hold_lstms(exported)
        program = torch.onnx.export(
            exported,
            input_names=[port.name for port in graph.signature.inputs],
            output_names=[port.name for port in graph.signature.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
            custom_translation_table={
                PLACEHOLDER.default: onnx_lstm,
                torch.ops.aten.scaled_dot_product_attention.default: onnx_attention,
            },
        )
        assert program is not None
        if recurrent or _turns_weights(program.model):  # constants, but larger ones than the exporter folds
            optimizer.fold_constants(program.model, input_size_limit=TWO_GIB, output_size_limit=TWO_GIB)
            optimizer.remove_unused_nodes(program.model)
    return _sums_before_norms(program.model_proto)


def _sums_before_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write additions that a layer norm reads as sums, which are the same.

    onnxruntime melts an Add and the norm behind it into one kernel that is slower than the two: of a BERT's time in
    integers that is a fifth.
    """
    normed = {node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    for node in model.graph.node:
        if node.op_type == "Add" and node.output[0] in normed:
            node.op_type = "Sum"
    return model


def _turns_weights(model: ir.Model) -> bool:
    """Whether weights are transposed when the graph runs, as those are that several layers share."""
    weights = set(model.graph.initializers.values())
    return any(node.op_type == "Transpose" and node.inputs[0] in weights for node in model.graph)


def modules_of(model: onnx.ModelProto, graph: Graph) -> dict[str, str | None]:
    """Which module of the user's model every node was traced from, by the node's name."""
    return {node.name: _module_of(node, graph.prefix) for node in model.graph.node}


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
