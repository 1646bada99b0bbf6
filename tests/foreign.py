"""Models as others make them: Hugging Face folders, `.onnx` files and OpenVINO IRs, without a line of kdc."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from kdc.tasks.text import train_wordpiece
from tests import tiny

ROWS = tiny.sentences(40)


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def tokenizer() -> Any:
    """One of `transformers`, for at most 64 tokens."""
    made = train_wordpiece(ROWS["text"], 200)
    made.model_max_length = 64
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


def checkpoint(folder: Path) -> Any:
    """A tiny BERT for at most 32 tokens and its tokenizer, saved by transformers; the model comes back."""
    words = tokenizer()
    model = tiny.bert(len(words), type_vocab_size=1)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def export(model: nn.Module, path: Path) -> Path:
    """What `torch.onnx.export` makes of a text classifier."""
    length = torch.export.Dim("sequence", max=32)
    axes = {0: torch.export.Dim("rows"), 1: length}
    ids, mask = torch.full((2, 7), 2), torch.ones((2, 7), dtype=torch.int64)  # one tensor twice would become one input
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            Logits(model).eval(), (ids, mask), path, dynamo=True, verbose=False,
            dynamic_shapes={"input_ids": axes, "attention_mask": axes}, output_names=["logits"],
        )  # fmt: skip
    return path


def graph(
    path: Path,
    inputs: dict[str, Sequence[str | int]],
    *,
    dtype: int = TensorProto.INT64,
    vocabulary: int = 50,
    external: str | None = None,
) -> Path:
    """A lookup of every input in one table, summed up over all axes but the first: `[batch, 4]`."""
    table = numpy_helper.from_array(np.ones((vocabulary, 4), np.float32), "table")
    nodes, sums = [], []
    for name, axes in inputs.items():
        integer = name
        if dtype != TensorProto.INT64:
            integer = f"{name}_as_integer"
            nodes.append(helper.make_node("Cast", [name], [integer], to=TensorProto.INT64))
        nodes.append(helper.make_node("Gather", ["table", integer], [f"{name}_rows"]))
        middle = numpy_helper.from_array(np.arange(1, len(axes), dtype=np.int64), f"{name}_axes")
        nodes.append(helper.make_node("ReduceSum", [f"{name}_rows", f"{name}_axes"], [f"{name}_sum"], keepdims=0))
        sums.append((f"{name}_sum", middle))
    nodes.append(helper.make_node("Sum", [name for name, _ in sums], ["total"]))
    made = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info(name, dtype, axes) for name, axes in inputs.items()],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [next(iter(inputs.values()))[0], 4])],
        [table, *(axes for _, axes in sums)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external is not None, location=external, size_threshold=100)
    return path


def ir(source: Path, path: Path) -> Path:
    """An ONNX file as OpenVINO saves it."""
    import openvino

    openvino.save_model(openvino.Core().read_model(source), path)
    return path
