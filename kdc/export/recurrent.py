"""LSTMs as one operation of an exported graph: left alone, torch's exporter unrolls them over the traced length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

torch.library.define(
    "kdc::lstm",
    "(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first) -> (Tensor, Tensor, Tensor)",
)
PLACEHOLDER = torch.ops.kdc.lstm
"""Stands for `aten::lstm.input`, whose arguments it takes, while a graph is traced; it computes nothing."""


@torch.library.register_fake("kdc::lstm")
def _shapes(values: Tensor, hx: Sequence[Tensor], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return values.new_empty(*values.shape[:2], hx[0].shape[2]), torch.empty_like(hx[0]), torch.empty_like(hx[1])


class WholeLstms(TorchFunctionMode):
    """Within it, a trace has the placeholder for every call of an LSTM of one layer and one direction."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.lstm:
            return func(*args, **(kwargs or {}))
        _, _, params, has_biases, layers, _, _, bidirectional, batch_first = args
        if len(params) != 4 or not has_biases or layers != 1 or bidirectional or not batch_first:
            raise NotImplementedError("kdc exports LSTMs of one layer and direction, with biases, batch first")
        return PLACEHOLDER(*args)


def restore_lstms(program: torch.export.ExportedProgram) -> None:
    """Put torch's own operation in, in place: what is saved then needs no kdc, and runs on every device."""
    _replace(program, PLACEHOLDER.default, torch.ops.aten.lstm.input)


def hold_lstms(program: torch.export.ExportedProgram) -> bool:
    """Put the placeholder back, in place, for who traces the program again; whether there are any."""
    return _replace(program, torch.ops.aten.lstm.input, PLACEHOLDER.default)


def _replace(program: torch.export.ExportedProgram, operation: Any, other: Any) -> bool:
    found = [node for node in program.graph.nodes if node.target is operation]
    for node in found:
        node.target = other
    program.graph_module.recompile()
    return bool(found)


def onnx_lstm(values: Any, hx: Sequence[Any], params: Sequence[Any], *_: Any) -> tuple[Any, Any, Any]:
    """The placeholder as ONNX's LSTM: length before rows, gates in the order i, o, f, c; torch has i, f, c, o."""
    from onnxscript import opset18

    op: Any = opset18
    units = hx[0].shape[2]

    def reordered(weight: Any) -> Any:
        i, f, c, o = (op.Slice(weight, [k * units], [(k + 1) * units], [0]) for k in range(4))
        return op.Concat(i, o, f, c, axis=0)

    input_weight, state_weight, *biases = map(reordered, params)
    outputs, last_state, last_cell = op.LSTM(
        op.Transpose(values, perm=[1, 0, 2]),
        op.Unsqueeze(input_weight, [0]),
        op.Unsqueeze(state_weight, [0]),
        op.Unsqueeze(op.Concat(*biases, axis=0), [0]),
        None,
        *hx,
        hidden_size=units,
    )
    return op.Transpose(op.Squeeze(outputs, [1]), perm=[1, 0, 2]), last_state, last_cell
