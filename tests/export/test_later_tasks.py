"""The interfaces carry what comes later: two graphs with a cache between them, and an output as long as its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.export.base import RUNTIMES, Port, Signature
from kdc.export.modules import graph_callables
from kdc.export.verified import export_verified
from kdc.models.build import Built
from kdc.tasks.inference import predict_rows
from tests import tiny, toys

pytestmark = pytest.mark.slow

CELLS = [("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32")]


@pytest.fixture(scope="module")
def decoder() -> Built:
    torch.manual_seed(0)
    examples = tiny.sentences(30)
    encoder = tiny.encoder(examples, inputs=("input_ids", "attention_mask"))
    assert encoder.vocab_size <= toys.VOCABULARY
    return Built(tiny.lively(toys.Decoder().eval()), encoder, new_head=False)


@pytest.fixture(scope="module")
def continued(decoder: Built) -> Examples:
    """Prompts of different lengths with their greedy continuations: plain torch, one row at a time, without a cache."""
    prompts = tiny.sentences(12)
    continuations = []
    for row in decoder.encoder.encode(prompts):
        ids = list(row["input_ids"])
        with torch.no_grad():
            for _ in range(toys.NEW_TOKENS):
                ids.append(int(decoder.model(torch.tensor([ids]))[0, -1].argmax()))
        continuations.append(ids[-toys.NEW_TOKENS :])
    assert len({tuple(row) for row in continuations}) > 5, "the toy must not say the same to everything"
    return Examples({"text": prompts["text"], "continuation": continuations})


@pytest.mark.parametrize(("runtime", "precision"), CELLS)
def test_a_decoder_with_a_cache_says_token_by_token_what_the_plain_loop_says(
    decoder: Built, continued: Examples, runtime: str, precision: str, tmp_path: Path
) -> None:
    task = toys.ToyDecoder()
    written = tiny.artifact(tmp_path, decoder, continued, runtime=runtime, task=task)
    suffix = {"torch": "pt2", "onnxruntime": "onnx", "openvino": "xml"}[runtime]
    assert {f"prefill.{suffix}", f"step.{suffix}"} <= {path.name for path in tmp_path.iterdir()}
    assert [signature.name for signature in written.signatures] == ["prefill", "step"]
    session = written.session()
    for batch_size in (1, 8):
        outputs = session.predict(continued, batch_size=batch_size)
        np.testing.assert_array_equal(outputs["logits"].argmax(-1), np.array(continued["continuation"]))
        assert task.score(outputs, continued) == {"exact": 1.0}
    assert session.answers(continued)[0] == " ".join(map(str, continued["continuation"][0]))


@pytest.mark.parametrize(("runtime", "precision"), CELLS)
def test_a_decoder_is_verified_and_counted_over_both_graphs(
    decoder: Built, continued: Examples, runtime: str, precision: str, tmp_path: Path
) -> None:
    seen = export_verified(
        decoder, PrecisionPlan(), RUNTIMES[runtime](name=runtime), toys.ToyDecoder(), continued, tmp_path
    )
    assert seen["fidelity"]["agreement"] == 1.0
    length = max(len(row["input_ids"]) for row in decoder.encoder.encode(continued))

    def macs(new: int, total: int) -> int:
        block = new * (4 * 32 * 32 + 2 * 32 * 64) + 2 * new * total * 32
        return 3 * (toys.LAYERS * block + new * 32 * toys.VOCABULARY)  # of the three rows that were traced

    assert seen["macs"]["total"] == macs(length, length) + macs(1, length + 1)


def test_a_decoder_in_int8_holds_the_plan_in_both_graphs(decoder: Built, continued: Examples, tmp_path: Path) -> None:
    plan = Int8(name="int8", reduce_range=False).apply(decoder.model, PrecisionPlan()).plan
    written = tiny.artifact(tmp_path, decoder, continued, runtime="onnxruntime", plan=plan, task=toys.ToyDecoder())
    for signature in written.signatures:
        model = onnx.load(tmp_path / f"{signature.name}.onnx")
        assert sum(node.op_type == "MatMulInteger" for node in model.graph.node) == toys.LAYERS * 4 + 1
    feeds = {g.signature.name: g.sample for g in toys.ToyDecoder().graphs(decoder.model, decoder.encoder, continued)}
    counted = written.runtime.executed(tmp_path, written.signatures, feeds)
    assert 0.5 < counted.int8 / counted.macs < 1
    wanted = graph_callables(toys.ToyDecoder().graphs(decoder.model, decoder.encoder, continued.select([0, 1])))
    first = decoder.encoder.collate(decoder.encoder.encode(continued.select([3])))
    np.testing.assert_allclose(
        written.session().graphs["prefill"](first)["logits"], wanted["prefill"](first)["logits"], atol=0.5
    )


def test_a_decoder_in_bf16_keeps_its_cache_in_bf16(decoder: Built, continued: Examples, tmp_path: Path) -> None:
    plan = PrecisionPlan(default="bf16")
    written = tiny.artifact(tmp_path, decoder, continued, runtime="torch", plan=plan, task=toys.ToyDecoder())
    outputs = written.session().predict(continued)
    agreement = (outputs["logits"].argmax(-1)[:, 0] == np.array(continued["continuation"])[:, 0]).mean()
    assert agreement >= 0.8


def tagger() -> tuple[Built, Examples]:
    from transformers import BertConfig, BertForTokenClassification

    texts = tiny.sentences(30)
    encoder = tiny.encoder(texts)
    labels = ("O", "B-good", "B-bad")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=encoder.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
    )  # fmt: skip
    model = tiny.lively(BertForTokenClassification(config).eval())
    tags = [[0] * encoder.length(row) for row in encoder.encode(texts)]
    return Built(model, encoder, new_head=False), Examples({"text": texts["text"], "tags": tags}, labels)


@pytest.mark.parametrize("runtime", tiny.PORTABLE)
def test_a_label_a_token_through_rows_of_different_length(runtime: str, tmp_path: Path) -> None:
    built, examples = tagger()
    task = toys.ToyTagging()
    export_verified(built, PrecisionPlan(), RUNTIMES[runtime](name=runtime), task, examples, tmp_path)
    session = tiny.Artifact.open(tmp_path).session()
    outputs = session.predict(examples, batch_size=4)
    encoded = built.encoder.encode(examples)
    lengths = [built.encoder.length(row) for row in encoded]
    assert len(set(lengths)) > 5
    assert outputs["logits"].shape == (30, max(lengths), 3)
    for row, length, logits in zip(encoded, lengths, outputs["logits"], strict=True):
        with torch.no_grad():
            alone = built.model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0]
        np.testing.assert_allclose(logits[:length], alone.numpy(), atol=1e-4)


def test_predict_rows_needs_no_artifact(decoder: Built, continued: Examples) -> None:
    """The same loop validates a model in training."""
    task: Any = toys.ToyDecoder()
    graphs = graph_callables(task.graphs(decoder.model, decoder.encoder, continued.select([0, 0])))
    outputs = predict_rows(task, graphs, decoder.encoder, decoder.encoder.encode(continued), batch_size=7)
    np.testing.assert_array_equal(task.hits(outputs, continued), np.ones(12))


def test_a_signature_refuses_one_name_for_two_ports() -> None:
    port = Port("keys", "float32", ("batch",))
    with pytest.raises(ValueError, match="signature step: inputs and outputs share a name"):
        Signature("step", (port,), (port,))
