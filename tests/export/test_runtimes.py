"""Every cell of runtime x precision computes what the module computes, at batches and lengths never traced."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.compress.base import PASSES
from kdc.compress.calibration import Calibration
from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.export.artifact import Artifact
from kdc.export.base import RUNTIMES, Arrays
from kdc.export.modules import graph_callables
from kdc.models.build import Built
from kdc.models.rewrites import rewritten
from tests import tiny

pytestmark = pytest.mark.slow

CELLS = [
    ("torch", "fp32", 1e-5),
    ("torch", "bf16", 0.2),
    ("torch", "fp16", 0.05),
    ("onnxruntime", "fp32", 1e-4),
    ("onnxruntime", "int8", 0.5),
    ("onnxruntime", "int8_static", 0.5),
    ("onnxruntime", "int8_weights", 0.5),
    ("onnxruntime", "int4_weights", 2.0),
    ("onnxruntime", "codebook", 0.3),
    ("openvino", "fp32", 1e-4),
    ("openvino", "bf16", 0.5),
    ("openvino", "int8_static", 0.5),
]
"""Against the model in float, in the spread of its outputs; how near files come to their plan, `verified` checks."""
BY_PRECISION = {
    PASSES[name](**{"name": name, **({"paths": ["x"]} if name == "merge" else {})}).precision: name for name in PASSES
}


def planned(built: Built, examples: Examples, precision: str) -> PrecisionPlan:
    if precision == "fp32":
        return PrecisionPlan()
    name = BY_PRECISION[precision]
    task = tiny.task("text-classification" if "text" in examples else "image-classification")
    rows = Calibration(task, built.encoder, examples)
    return PASSES[name](name=name).apply(built.model, PrecisionPlan(), rows).plan


def test_every_cell_is_tried() -> None:
    """Those of the compiler have a file of their own: each takes half a minute."""
    cells = {(name, cell) for name, runtime in RUNTIMES.items() for cell in runtime.precisions if name != "inductor"}
    assert {(runtime, precision) for runtime, precision, _ in CELLS} == cells


@cache
def case(kind: str) -> tuple[Built, Examples]:
    if kind == "bert":
        examples = tiny.sentences(40)
        return tiny.built_bert(examples), examples
    examples = tiny.pictures(40, channels=3)
    return tiny.built_net(examples, kind), examples


def reference(built: Built, examples: Examples, batch: Arrays) -> np.ndarray:
    task = tiny.task("text-classification" if "text" in examples else "image-classification")
    return graph_callables(task.graphs(built.model, built.encoder, examples.select([0, 1])))["forward"](batch)["logits"]


def batches(built: Built, examples: Examples) -> dict[str, Arrays]:
    encoded = built.encoder.encode(examples)
    found = {"one": built.encoder.collate(encoded[5:6]), "eight": built.encoder.collate(encoded[:8])}
    if "text" in examples:
        shortest = min(encoded, key=built.encoder.length)
        found |= {
            "shortest": built.encoder.collate([shortest]),
            "never traced": built.encoder.collate(encoded[:8], length=29),
            "longest": built.encoder.collate(encoded[:2], length=32),
        }
    return found


@pytest.mark.parametrize("kind", ["bert", "mlp", "cnn"])
@pytest.mark.parametrize(("runtime", "precision", "tolerance"), CELLS, ids=lambda value: str(value))
def test_outputs_equal_the_modules(kind: str, runtime: str, precision: str, tolerance: float, tmp_path: Path) -> None:
    assert precision in RUNTIMES[runtime].precisions
    built, examples = case(kind)
    plan = planned(built, examples, precision)
    with rewritten(built.model, plan.rewrites):
        written = tiny.artifact(tmp_path, built, examples, runtime=runtime, plan=plan)
    assert written.precision == precision
    session = written.session(threads=1)
    for name, batch in batches(built, examples).items():
        wanted = reference(built, examples, batch)
        got = session.run(batch)["logits"]
        assert got.dtype == np.float32, name
        assert got.shape == wanted.shape, name
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.std())), err_msg=name)
        if precision != "fp32":
            assert not np.array_equal(got, wanted), f"{name}: nothing was rounded"


@pytest.mark.parametrize("runtime", tiny.PORTABLE)
def test_rows_come_back_in_order_and_as_label_names(runtime: str, tmp_path: Path) -> None:
    built, examples = case("bert")
    session = tiny.artifact(tmp_path, built, examples, runtime=runtime).session()
    outputs = session.predict(examples, batch_size=7)["logits"]
    for i in (0, 13, 39):
        alone = session.run(built.encoder.collate(built.encoder.encode(examples.select([i]))))["logits"][0]
        np.testing.assert_allclose(outputs[i], alone, atol=1e-4)
    assert session.answers(examples) == [examples.labels[i] for i in outputs.argmax(-1)]


@pytest.mark.parametrize("runtime", tiny.PORTABLE)
@pytest.mark.parametrize("kind", ["bert", "cnn"])
def test_what_ships_is_the_graph_the_encoder_and_the_config(kind: str, runtime: str, tmp_path: Path) -> None:
    built, examples = case(kind)
    tiny.artifact(tmp_path, built, examples, runtime=runtime)
    graph = {
        "torch": {"model.safetensors" if kind == "bert" else "forward.pt2"},
        "onnxruntime": {"forward.onnx"},
        "openvino": {"forward.xml", "forward.bin"},
    }[runtime]
    encoder = {"tokenizer.json", "tokenizer_config.json"} if kind == "bert" else {"preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*graph, "config.json", "kdc.json", *encoder}


def test_timing_inputs_stay_within_a_small_vocabulary(tmp_path: Path) -> None:
    built, examples = case("bert")
    session = tiny.artifact(tmp_path, built, examples, runtime="onnxruntime").session()
    batch = session.example_batch(batch=4, length=20)
    assert batch["input_ids"].shape == (4, 20)
    assert 0 < batch["input_ids"].min() <= batch["input_ids"].max() < built.model.config.vocab_size
    assert batch["attention_mask"].all()
    assert session.run(batch)["logits"].shape == (4, 2)


def test_threads_are_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen: list[Any] = []
    original = onnxruntime.InferenceSession

    def spy(path: str, options: Any, **rest: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return original(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    built, examples = case("mlp")
    written: Artifact = tiny.artifact(tmp_path, built, examples, runtime="onnxruntime")
    written.session(threads=3)
    assert seen == [(3, 1)]
