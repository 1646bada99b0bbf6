"""Attention in ONNX against torch's own, kind by kind, and what onnxruntime makes of whole models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from kdc.export.onnx_attention import onnx_attention
from tests import tiny
from tests.compress import models

pytestmark = pytest.mark.slow

TABLE: Any = {torch.ops.aten.scaled_dot_product_attention.default: onnx_attention}
QUERY, KEY, VALUE = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0))
LAST_KEYS_GONE = torch.arange(5) < torch.tensor([3, 5])[:, None, None, None]


class Attention(nn.Module):
    def __init__(self, mask: Tensor | None, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mask", mask)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, self.mask, **self.settings)


def operators(path: Path) -> list[str]:
    """What runs, told from onnxruntime's profile."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_name("profile"))
    session = onnxruntime.InferenceSession(path, options)
    feeds = {port.name: np.ones((2, 6), np.int64) for port in session.get_inputs()}
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]


def in_onnx(module: nn.Module, *inputs: Tensor) -> tuple[np.ndarray, list[str]]:
    program = torch.onnx.export(module.eval(), inputs, dynamo=True, custom_translation_table=TABLE, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feeds = {port.name: tensor.numpy() for port, tensor in zip(session.get_inputs(), inputs, strict=True)}
    return np.asarray(session.run(None, feeds)[0]), [node.op_type for node in program.model_proto.graph.node]


@pytest.mark.parametrize(
    ("mask", "settings", "plain"),
    [
        (None, {}, True),
        (None, {"scale": 0.7}, True),
        (LAST_KEYS_GONE, {}, True),
        (torch.ones(5, 5, dtype=torch.bool).tril(), {}, True),
        (None, {"is_causal": True}, False),
        (torch.where(LAST_KEYS_GONE, 0.5, -1e9), {}, False),
    ],
)
def test_it_is_torchs(mask: Tensor | None, settings: dict[str, Any], plain: bool) -> None:
    module = Attention(mask, **settings)
    ours, nodes = in_onnx(module, QUERY, KEY, VALUE)
    np.testing.assert_allclose(ours, module(QUERY, KEY, VALUE), rtol=1e-5, atol=1e-6)
    if plain:
        assert {"IsNaN", "Shape", "Slice"} & {*nodes} == set()


def test_queries_without_a_key_get_the_mean_of_the_values() -> None:
    gone = torch.tensor([False, True])[:, None, None, None].expand(2, 1, 1, 5)
    ours, _ = in_onnx(Attention(gone.clone()), QUERY, KEY, VALUE)
    np.testing.assert_allclose(ours[0], VALUE[0].mean(dim=-2, keepdim=True).expand(4, 5, 8), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_a_layer_runs_as_few_kernels(family: str, tmp_path: Path) -> None:
    built = models.texts(family)
    tiny.artifact(tmp_path, built, models.ROWS, runtime="onnxruntime")
    run = operators(tmp_path / "forward.onnx")
    assert {"IsNaN", "SkipLayerNormalization"} & {*run} == set()
    assert run.count("Where") <= (4 if family == "gpt2" else 1), "masks are made once for all layers"
    assert run.count("Transpose") <= 4 * 3
    assert run.count("LayerNormalization") == 2 * 3 + 1
