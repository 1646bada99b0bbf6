"""The onnxruntime lowering: the plan realized module by module, nothing of this machine in the file, MACs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.compress.svd import Svd
from kdc.data.examples import Examples
from kdc.export.artifact import Artifact
from kdc.export.base import Arrays
from kdc.export.foreign import take_in
from kdc.models.build import Built
from tests import tiny

pytestmark = pytest.mark.slow

LAYER = "bert.encoder.layer"


def int8_plan(model: Any, **settings: Any) -> PrecisionPlan:
    settings.setdefault("reduce_range", False)
    return Int8(name="int8", **settings).apply(model, PrecisionPlan()).plan


def lowered(folder: Path, built: Built, examples: Examples, plan: PrecisionPlan | None = None) -> onnx.ModelProto:
    tiny.artifact(folder, built, examples, runtime="onnxruntime", plan=plan)
    return onnx.load(folder / "forward.onnx")


def weights(model: onnx.ModelProto, operators: Sequence[str]) -> list[np.ndarray]:
    """The constant second (or, of a Gather, first) inputs of these operators."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type in operators:
            name = node.input[0 if node.op_type == "Gather" else 1]
            if name in constants:
                found.append(constants[name])
    return found


INTEGER = ("MatMulInteger", "DynamicQuantizeMatMul")
FLOAT = ("MatMul", "Gemm")


@pytest.fixture(scope="module")
def bert() -> tuple[Built, Examples]:
    examples = tiny.sentences(20)
    return tiny.built_bert(examples), examples


def test_int8_holds_every_planned_weight_and_no_other(bert: tuple[Built, Examples], tmp_path: Path) -> None:
    built, examples = bert
    model = lowered(tmp_path, built, examples, int8_plan(built.model))
    linears = weights(model, INTEGER)
    assert len(linears) == 2 * 6 + 2
    assert all(weight.dtype == np.int8 for weight in linears)
    assert not weights(model, FLOAT), "no linear is left in float"
    tables = weights(model, ["Gather"])
    assert sorted(
        table.shape[0] for table in tables if table.ndim == 2 and table.dtype in (np.int8, np.uint8)
    ) == sorted([built.model.config.vocab_size, 32, 2])
    floats = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert max(array.size for array in floats if array.dtype == np.float32) <= 64, "only biases, norms and scales"


@pytest.mark.parametrize("pattern", [f"{LAYER}.1.*", "classifier", "*.attention.self.query"])
def test_excluded_modules_stay_in_float(bert: tuple[Built, Examples], tmp_path: Path, pattern: str) -> None:
    built, examples = bert
    plan = int8_plan(built.model, exclude=[pattern])
    model = lowered(tmp_path, built, examples, plan)
    parameters = dict(built.model.named_parameters())
    wanted = [parameters[f"{name}.weight"].detach().numpy() for name in plan.excluded]
    left = weights(model, FLOAT)
    assert len(left) == len(wanted)
    for weight in wanted:
        assert any(np.array_equal(other, weight) or np.array_equal(other, weight.T) for other in left)
    assert len(weights(model, INTEGER)) == 14 - len(wanted)


def test_weights_per_channel_have_a_scale_each(bert: tuple[Built, Examples], tmp_path: Path) -> None:
    built, examples = bert
    names = {"per": True, "whole": False}
    models = {
        name: lowered(tmp_path / name, built, examples, int8_plan(built.model, per_channel=per))
        for name, per in names.items()
    }
    sizes = {
        name: sorted(
            array.size
            for tensor in model.graph.initializer
            if (array := onnx.numpy_helper.to_array(tensor)).dtype == np.float32 and tensor.name.endswith("_scale")
        )
        for name, model in models.items()
    }
    assert set(sizes["whole"]) == {1}
    assert [size for size in sizes["per"] if size > 1] == sorted([32] * 10 + [64] * 2 + [32] + [2])
    errors = {}
    for name in names:
        session = Artifact.open(tmp_path / name).session()
        wanted = reference(built, examples)
        errors[name] = float(np.abs(session.predict(examples)["logits"] - wanted).mean())
    assert errors["per"] != errors["whole"]


def test_reduce_range_keeps_weights_to_seven_bits(bert: tuple[Built, Examples], tmp_path: Path) -> None:
    built, examples = bert
    largest = {}
    for reduce in (False, True):
        model = lowered(tmp_path / str(reduce), built, examples, int8_plan(built.model, reduce_range=reduce))
        largest[reduce] = max(int(np.abs(weight.astype(int)).max()) for weight in weights(model, INTEGER))
    assert largest[False] == 127
    assert largest[True] in (63, 64)


def test_embeddings_are_stored_in_int8_or_not(bert: tuple[Built, Examples], tmp_path: Path) -> None:
    built, examples = bert
    dtypes = {}
    for stored in (True, False):
        model = lowered(tmp_path / str(stored), built, examples, int8_plan(built.model, embeddings=stored))
        tables = [table for table in weights(model, ["Gather"]) if table.ndim == 2]
        dtypes[stored] = {table.dtype for table in tables if table.shape[1] == 32}
        assert len(weights(model, INTEGER)) == 14
    assert dtypes[True] <= {np.dtype(np.int8), np.dtype(np.uint8)}
    assert dtypes[False] == {np.dtype(np.float32)}


def test_convolutions_stay_in_float(tmp_path: Path) -> None:
    examples = tiny.pictures(8)
    built = tiny.built_net(examples, "cnn")
    model = lowered(tmp_path, built, examples, int8_plan(built.model))
    assert {weight.dtype for weight in weights(model, ["Conv"])} == {np.dtype(np.float32)}
    assert len(weights(model, INTEGER)) == 2
    assert not [node for node in model.graph.node if node.op_type == "ConvInteger"]


def test_conv1d_of_gpt2_runs_in_int8(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    examples = tiny.sentences(20)
    encoder = tiny.encoder(examples, inputs=("input_ids", "attention_mask"))
    config = GPT2Config(
        vocab_size=encoder.vocab_size, n_embd=32, n_layer=1, n_head=2, n_positions=32, pad_token_id=encoder.pad_id,
        num_labels=2, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    built = Built(tiny.lively(GPT2ForSequenceClassification(config).eval()), encoder, new_head=False)
    model = lowered(tmp_path, built, examples, int8_plan(built.model))
    assert len(weights(model, INTEGER)) == 5
    assert not weights(model, FLOAT)


def test_a_linear_that_reads_an_embedding_runs_in_int8_too(tmp_path: Path) -> None:
    """What the first run of the quantizer adds has the names that the second would take."""
    examples = tiny.sentences(20)
    built = tiny.built_bert(examples)
    Svd(name="svd", method="plain", rank=8, embeddings=True, include=["*word_embeddings"]).apply(
        built.model, PrecisionPlan()
    )
    artifact = tiny.artifact(tmp_path, built, examples, runtime="onnxruntime", plan=int8_plan(built.model))
    logits = artifact.session().predict(examples)["logits"]
    encoded = built.encoder.collate(built.encoder.encode(examples))
    with torch.no_grad():
        wanted = built.model(**{name: torch.from_numpy(array) for name, array in encoded.items()}).logits.numpy()
    assert np.abs(logits - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nothing_of_this_machine_is_in_the_file(bert: tuple[Built, Examples], tmp_path: Path, precision: str) -> None:
    built, examples = bert
    model = lowered(tmp_path, built, examples, int8_plan(built.model) if precision == "int8" else None)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    content = (tmp_path / "forward.onnx").read_bytes()
    for trace in (b"site-packages", b".py", b"stack_trace", str(Path(__file__).parents[2]).encode(), b"/tmp"):
        assert trace not in content, trace


def reference(built: Built, examples: Examples) -> np.ndarray:
    from kdc.export.modules import graph_callables
    from kdc.tasks.inference import predict_rows

    task = tiny.task()
    graphs = graph_callables(task.graphs(built.model, built.encoder, examples.select([0, 1])))
    return predict_rows(task, graphs, built.encoder, built.encoder.encode(examples))["logits"]


# MACs, counted by hand


def bert_macs(
    batch: int, length: int, *, layers: int = 2, hidden: int = 32, wide: int = 64, labels: int = 2
) -> tuple[int, int]:
    """Of linears, and of attention's two products."""
    linears = layers * batch * length * (4 * hidden**2 + 2 * hidden * wide) + batch * (hidden**2 + hidden * labels)
    return linears, layers * 2 * batch * length**2 * hidden


NET_MACS = {
    "mlp": (64 * 16 + 16 * 12 + 12 * 3, 0),
    "cnn": (6 * 2 * 2 * 10 + 10 * 3, 8 * 8 * 4 * 9 * 1 + 4 * 4 * 6 * 9 * 4),
}


def macs(written: Artifact, batch: Arrays) -> tuple[int, int]:
    counted = written.runtime.executed(written.folder, written.signatures, {"forward": batch})
    return counted.macs, counted.int8


@pytest.mark.parametrize("runtime", tiny.PORTABLE)
def test_macs_of_a_bert(bert: tuple[Built, Examples], tmp_path: Path, runtime: str) -> None:
    built, examples = bert
    written = tiny.artifact(tmp_path, built, examples, runtime=runtime)
    batch = written.session().example_batch(batch=3, length=11)
    linears, attention = bert_macs(3, 11)
    assert macs(written, batch) == (linears + attention, 0)


def test_int8_macs_of_a_bert(bert: tuple[Built, Examples], tmp_path: Path) -> None:
    built, examples = bert
    linears, attention = bert_macs(3, 11)
    plan = int8_plan(built.model)
    written = tiny.artifact(tmp_path / "all", built, examples, runtime="onnxruntime", plan=plan)
    batch = written.session().example_batch(batch=3, length=11)
    assert macs(written, batch) == (linears + attention, linears)
    plan = int8_plan(built.model, exclude=["*.intermediate.dense"])
    written = tiny.artifact(tmp_path / "some", built, examples, runtime="onnxruntime", plan=plan)
    assert macs(written, batch) == (linears + attention, linears - 2 * 3 * 11 * 32 * 64)


@pytest.mark.parametrize("runtime", tiny.PORTABLE)
@pytest.mark.parametrize("kind", list(NET_MACS))
def test_macs_of_the_plain_nets(kind: str, runtime: str, tmp_path: Path) -> None:
    examples = tiny.pictures(8)
    built = tiny.built_net(examples, kind)
    linears, convolutions = NET_MACS[kind]
    written = tiny.artifact(tmp_path / "float", built, examples, runtime=runtime)
    batch = written.session().example_batch(batch=5, length=1)
    assert macs(written, batch) == (5 * (linears + convolutions), 0)
    if runtime == "onnxruntime":
        plan = int8_plan(built.model)
        written = tiny.artifact(tmp_path / "int8", built, examples, runtime=runtime, plan=plan)
        assert macs(written, batch) == (5 * (linears + convolutions), 5 * linears)


def test_fused_kernels_are_told_from_those_of_the_file(tmp_path: Path) -> None:
    """A product with a transposed matrix is one kernel, the operator behind it another."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Transpose", ["b"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "turned"], ["product"]),
        helper.make_node("Neg", ["product"], ["out"]),
    ]
    a, b, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("a", ["batch", 4]), ("b", [3, 4]), ("out", ["batch", 3]))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "net", [a, b], [out]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.save(model, tmp_path / "net.onnx")
    written = take_in(tmp_path / "net.onnx", tmp_path / "in")
    batch = written.session().example_batch(batch=5, length=1)
    counted = written.runtime.executed(written.folder, written.signatures, {written.signatures[0].name: batch})
    assert (counted.operators, counted.kernels, counted.fused) == (3, 2, {"FusedMatMul": 1})
    assert counted.macs == 5 * 3 * 4


def test_macs_of_convolutions_in_onnxruntimes_blocked_layout(tmp_path: Path) -> None:
    """Channels that fill its blocks make onnxruntime run other kernels on weights in another layout."""
    from kdc.models.nets import CNN, CNNConfig
    from kdc.tasks.image import ImageEncoder

    examples = tiny.pictures(8)
    config = CNNConfig(image_size=8, channels=[16, 32], hidden_size=8, num_labels=3)
    built = Built(CNN(config).eval(), ImageEncoder.fit(examples, None), new_head=False)
    written = tiny.artifact(tmp_path, built, examples, runtime="onnxruntime")
    wanted = 8 * 8 * 16 * 9 + 4 * 4 * 32 * 9 * 16 + 2 * 2 * 32 * 8 + 8 * 3
    assert macs(written, written.session().example_batch(batch=2, length=1)) == (2 * wanted, 0)
