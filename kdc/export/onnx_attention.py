"""torch's attention as ONNX, in as few operators as runtimes fuse.

The exporter's own form turns the keys around over shapes that it computes at every call, and looks for rows whose keys
are all masked, which no text has.
"""

from __future__ import annotations

import math
from typing import Any


def onnx_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(Q K' scale + mask) V of `[rows, heads, tokens, size]`; the exporter's own form where it is another kind.

    A query whose keys are all masked gets the mean of the values, not zeros: a padding, of which nothing is read.
    """
    from onnxscript import ir, opset18

    op: Any = opset18
    if is_causal or enable_gqa or (attn_mask is not None and attn_mask.dtype != ir.DataType.BOOL):
        from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention as own

        return own(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    factor = op.CastLike(scale if scale is not None else 1 / math.sqrt(query.shape[-1]), query)
    scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        masked = op.CastLike(-3.0e38, query)  # not minus infinity, of which a softmax may make no number
        scores = op.Add(scores, op.Where(attn_mask, op.CastLike(0.0, query), masked))
    return op.MatMul(op.Softmax(scores, axis=-1), value)
