"""Tracing a model for ONNX takes seconds, so these tests trace each one once; what comes after it runs every time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import pytest

from kdc.export import onnxruntime as lowering
from kdc.export.base import Graph


@pytest.fixture(scope="session", autouse=True)
def _trace_each_model_once() -> Iterator[None]:
    original, traced = lowering.export_onnx, {}

    def export(graph: Graph) -> onnx.ModelProto:
        model: Any = graph.module.model
        key = (type(graph.module), id(model), repr(graph.signature))
        if key not in traced:
            traced[key] = model, original(graph)  # the model is kept, so that no other gets its id
        copy = onnx.ModelProto()
        copy.CopyFrom(traced[key][1])
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "export_onnx", export)
        yield
