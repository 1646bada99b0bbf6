"""Modules as a runtime sees them: narrowed to one signature for tracing, or called on plain arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kdc.export.base import Arrays, Graph, Signature
from kdc.export.key_masks import masks_by_key
from kdc.export.recurrent import WholeLstms, restore_lstms
from kdc.quiet import quiet


class SelectOutputs(nn.Module):
    """`forward(*inputs)` -> the model's outputs, both as the signature names them and in its order."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(port.name for port in signature.inputs)
        self.outputs = tuple(port.name for port in signature.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(outputs[name] for name in self.outputs)


def call_on_arrays(module: nn.Module, signature: Signature) -> Callable[[Arrays], Arrays]:
    """`module` on named arrays, on the device and in the dtype of its weights; float outputs come back as float32."""

    def call(arrays: Arrays) -> Arrays:
        weight = next(module.parameters())
        inputs = []
        for port in signature.inputs:
            tensor = torch.from_numpy(np.ascontiguousarray(arrays[port.name])).to(weight.device)
            inputs.append(tensor.to(weight.dtype) if tensor.is_floating_point() else tensor)
        with torch.inference_mode():
            values = module(*inputs)
        return {
            port.name: (value.float() if value.is_floating_point() else value).cpu().numpy()
            for port, value in zip(signature.outputs, values, strict=True)
        }

    return call


def graph_callables(graphs: Sequence[Graph]) -> Mapping[str, Callable[[Arrays], Arrays]]:
    """The graphs of a live model, callable as a loaded artifact is."""
    return {graph.signature.name: call_on_arrays(graph.module, graph.signature) for graph in graphs}


def export_program(graph: Graph, *, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """`torch.export` of one graph with the signature's dynamic axes: equal names share one size."""
    names = {axis for port in graph.signature.inputs for axis in port.axes if isinstance(axis, str)}
    dims = {name: torch.export.Dim(name, max=graph.signature.limits.get(name)) for name in names}
    inputs = graph.signature.inputs
    shapes = tuple({i: dims[axis] for i, axis in enumerate(port.axes) if isinstance(axis, str)} for port in inputs)
    sample = [torch.from_numpy(graph.sample[port.name]) for port in inputs]
    sample = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in sample]
    takes = inspect.signature(graph.module.forward).parameters.values()
    starred = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in takes)
    # shapes nest as the parameters of forward do: `*inputs` is one of them
    with quiet(), WholeLstms(), masks_by_key():
        program = torch.export.export(
            graph.module.eval(), tuple(sample), dynamic_shapes=(shapes,) if starred else shapes
        )
    restore_lstms(program)
    return program
