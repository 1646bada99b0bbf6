"""Text nets as files: every runtime takes rows of any number and length, padded or not, and none needs kdc."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.export.base import RUNTIMES, Graph, Port, Signature
from kdc.export.modules import export_program
from kdc.export.verified import export_verified
from kdc.models.build import Built
from tests import tiny

pytestmark = pytest.mark.slow

EXAMPLES = tiny.sentences(40)
NETS: dict[str, dict[str, Any]] = {
    "bilstm": {},
    "bilstm-max": {"pooling": "max"},
    "bilstm-mean": {"pooling": "mean"},
    "bilstm-deep": {"num_hidden_layers": 2},
    "textcnn": {"widths": [2, 3, 9]},
}


def net(name: str) -> Built:
    return tiny.built_text_net(EXAMPLES, name.partition("-")[0], **NETS[name])


def int8_plan(built: Built) -> PrecisionPlan:
    return Int8(name="int8", reduce_range=False).apply(built.model, PrecisionPlan()).plan


def test_all_runtimes_agree_on_answers_and_macs(tmp_path: Path) -> None:
    for name in NETS:
        built = net(name)
        counts = set()
        for runtime in ("torch", "onnxruntime", "openvino"):
            if runtime == "openvino":
                pytest.importorskip("openvino")
            folder = tmp_path / name / runtime
            folder.mkdir(parents=True)
            seen = export_verified(
                built, PrecisionPlan(), RUNTIMES[runtime](name=runtime), tiny.task(), EXAMPLES, folder
            )
            counts.add(seen["macs"]["total"])
        assert len(counts) == 1, name


def test_macs_by_hand(tmp_path: Path) -> None:
    built = net("bilstm-deep")
    seen = export_verified(built, PrecisionPlan(), RUNTIMES["torch"](name="torch"), tiny.task(), EXAMPLES, tmp_path)
    tokens = 3 * max(built.encoder.length(row) for row in built.encoder.encode(EXAMPLES))
    directions = 2 * 4 * 10 * (12 + 10) + 2 * 4 * 10 * (20 + 10)
    assert seen["macs"]["total"] == tokens * directions + 3 * (20 * 8 + 8 * 2)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
@pytest.mark.parametrize("name", ["bilstm", "textcnn"])
def test_a_row_is_answered_alone_as_in_a_padded_batch(name: str, runtime: str, tmp_path: Path) -> None:
    session = tiny.artifact(tmp_path, net(name), EXAMPLES, runtime=runtime).session()
    encoded = session.encoder.encode(EXAMPLES)
    together = session.run(session.encoder.collate(encoded, length=30))["logits"]
    assert together.std(axis=0).min() > 0.1
    for row, answer in zip(encoded, together, strict=True):
        alone = session.run(session.encoder.collate([row]))["logits"][0]
        np.testing.assert_allclose(alone, answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bilstm-deep", "textcnn"])
def test_int8_computes_linears_and_lstms_and_stores_embeddings(name: str, tmp_path: Path) -> None:
    built = net(name)
    runtime = RUNTIMES["onnxruntime"](name="onnxruntime")
    seen = export_verified(built, int8_plan(built), runtime, tiny.task(), EXAMPLES, tmp_path)
    operators = [node.op_type for node in onnx.load(tmp_path / "forward.onnx").graph.node]
    lstms = 4 if name == "bilstm-deep" else 0
    assert (operators.count("DynamicQuantizeLSTM"), operators.count("LSTM")) == (lstms, 0)
    assert operators.count("DequantizeLinear") == 1, "what was looked up in the table"
    whole = seen["macs"]["int8"] == seen["macs"]["total"]
    assert whole == (name == "bilstm-deep"), "convolutions stay in float"


def test_an_lstm_that_is_excluded_stays_in_float(tmp_path: Path) -> None:
    built = net("bilstm")
    plan = Int8(name="int8", reduce_range=False, exclude=["layers.0.back"]).apply(built.model, PrecisionPlan()).plan
    assert plan.excluded == {"layers.0.back": "exclude: layers.0.back"}
    seen = export_verified(built, plan, RUNTIMES["onnxruntime"](name="onnxruntime"), tiny.task(), EXAMPLES, tmp_path)
    operators = [node.op_type for node in onnx.load(tmp_path / "forward.onnx").graph.node]
    assert (operators.count("DynamicQuantizeLSTM"), operators.count("LSTM")) == (1, 1)
    assert seen["macs"]["int8"] == seen["macs"]["eligible"] < seen["macs"]["total"]


SERVE = {
    "onnxruntime": """
import sys, onnxruntime, numpy as np
session = onnxruntime.InferenceSession(sys.argv[1] + "/forward.onnx")
run = lambda ids: session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
""",
    "torch": """
import sys, torch, numpy as np
module = torch.export.load(sys.argv[1] + "/forward.pt2").module()
run = lambda ids: module(torch.from_numpy(ids), torch.ones_like(torch.from_numpy(ids)))[0].detach().numpy()
""",
}


@pytest.mark.parametrize("precision", ["onnxruntime fp32", "onnxruntime int8", "torch fp32"])
def test_what_ships_runs_where_kdc_is_not(precision: str, tmp_path: Path) -> None:
    runtime, _, dtype = precision.partition(" ")
    built = net("bilstm")
    plan = int8_plan(built) if dtype == "int8" else PrecisionPlan()
    tiny.artifact(tmp_path, built, EXAMPLES, runtime=runtime, plan=plan)
    program = SERVE[runtime] + (
        "print(*run(np.array([[2, 7, 8, 9, 3]])).ravel()); "
        "print([name for name in sys.modules if name.startswith(('kdc', 'transformers'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    answer, imported = done.stdout.splitlines()
    with torch.no_grad():
        wanted = built.model(torch.tensor([[2, 7, 8, 9, 3]])).logits[0]
    tolerance = 0.2 if dtype == "int8" else 1e-5
    np.testing.assert_allclose([float(value) for value in answer.split()], wanted, rtol=0, atol=tolerance)
    assert imported == "[]"


@pytest.mark.parametrize("settings", [{"bidirectional": True}, {"num_layers": 2}, {"bias": False}])
def test_an_lstm_of_another_kind_is_refused(settings: dict[str, Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3, batch_first=True, **settings)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.lstm(values)[0]
            return output

    ports = (Port("values", "float32", ("batch", "length", 4)),), (Port("states", "float32", ("batch", "length", 3)),)
    sample = {"values": np.zeros((2, 5, 4), dtype=np.float32)}
    with pytest.raises(NotImplementedError, match="kdc exports LSTMs of one layer and direction"):
        export_program(Graph(Signature("forward", *ports), Net(), sample))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_answers_as_the_cpu_does(tmp_path: Path) -> None:
    written = tiny.artifact(tmp_path, net("bilstm-deep"), EXAMPLES, runtime="torch")
    gpu = replace(written, runtime=written.runtime.model_copy(update={"device": "cuda"}))
    # TF32, which is not what fp32 says, would be off by 4e-3
    np.testing.assert_allclose(
        gpu.session().predict(EXAMPLES)["logits"], written.session().predict(EXAMPLES)["logits"], atol=5e-4
    )
