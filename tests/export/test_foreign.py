"""Taking in what others made: what is read off their files, and that it computes what their own libraries compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kdc.errors import KdcError
from kdc.export.foreign import take_in
from kdc.measure.size import artifact_size
from tests import foreign, tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hf/` with `hf/model.onnx` in it, and the same graph alone in `bare.onnx` and as IR in `bare.xml`."""
    folder = tmp_path_factory.mktemp("foreign")
    model = foreign.checkpoint(folder / "hf")
    foreign.export(model, folder / "hf" / "model.onnx")
    # as exporters save it: the weights may lie in a file of their own
    onnx.save(onnx.load(folder / "hf" / "model.onnx"), folder / "bare.onnx")
    foreign.ir(folder / "bare.onnx", folder / "bare.xml")
    return folder


def reference(place: Path) -> tuple[np.ndarray, list[str]]:
    """Logits and answers of plain transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(place / "hf").eval()
    tokens = AutoTokenizer.from_pretrained(place / "hf")(list(foreign.ROWS["text"]), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.numpy()
    return logits, [model.config.id2label[i] for i in logits.argmax(-1)]


@pytest.mark.parametrize(("name", "runtime"), [("hf", "torch"), ("hf/model.onnx", "onnxruntime")])
def test_what_the_files_beside_tell_makes_a_whole_artifact(
    place: Path, name: str, runtime: str, tmp_path: Path
) -> None:
    artifact = take_in(place / name, tmp_path / "in")
    assert artifact.task is not None
    assert artifact.task.name == "text-classification"
    assert (artifact.runtime.name, artifact.precision) == (runtime, "fp32")
    assert (artifact.inputs, artifact.labels) == (("text",), tiny.LABELS)
    (signature,) = artifact.signatures
    assert {port.name: port.axes for port in signature.inputs} == {
        "input_ids": ("batch", "length"),
        "attention_mask": ("batch", "length"),
    }
    assert signature.limits == {"length": 32}  # of the tokenizer's 64 and the model's 32
    session = artifact.session(threads=1)
    logits, answers = reference(place)
    np.testing.assert_allclose(session.predict(foreign.ROWS)["logits"], logits, atol=1e-4)
    assert session.answers(foreign.ROWS) == answers


@pytest.mark.parametrize(("name", "runtime"), [("bare.onnx", "onnxruntime"), ("bare.xml", "openvino")])
def test_a_graph_alone_has_no_task_and_can_be_run(place: Path, name: str, runtime: str, tmp_path: Path) -> None:
    artifact = take_in(place / name, tmp_path / "in")
    assert artifact.precision == {"onnxruntime": "fp32", "openvino": "fp16"}[runtime]
    assert (artifact.task, artifact.runtime.name, artifact.inputs, artifact.labels) == (None, runtime, (), ())
    (signature,) = artifact.signatures
    assert [port.axes for port in signature.inputs] == [("batch", "length")] * 2
    assert signature.inputs[0].below == len(foreign.tokenizer())
    session = artifact.session(threads=1)
    tokens = foreign.tokenizer()(list(foreign.ROWS["text"]), padding=True, return_tensors="np")
    logits, _ = reference(place)
    # OpenVINO's own way of saving keeps weights in half precision
    np.testing.assert_allclose(
        session.run(dict(tokens))["logits"], logits, atol=1e-4 if runtime == "onnxruntime" else 0.05
    )
    for use in (lambda: session.predict(foreign.ROWS), lambda: session.answers(foreign.ROWS)):
        with pytest.raises(KdcError, match=r"is a graph of no known task; it can be timed, and no more"):
            use()


@pytest.mark.parametrize("name", ["hf", "hf/model.onnx", "bare.onnx", "bare.xml"])
def test_timing_inputs_are_valid_at_every_size(place: Path, name: str, tmp_path: Path) -> None:
    session = take_in(place / name, tmp_path / "in").session(threads=1)
    for batch, length in ((1, 5), (3, 32)):
        arrays = session.example_batch(batch=batch, length=length)
        assert {array.shape for array in arrays.values()} == {(batch, length)}
        assert arrays["attention_mask"].all()
        assert session.run(arrays)["logits"].shape == (batch, 2)


def test_only_what_serves_counts_as_its_size(place: Path, tmp_path: Path) -> None:
    (place / "hf" / "README.md").write_text("what is said of it ships with nothing")
    take_in(place / "hf", tmp_path / "in")
    size = artifact_size(tmp_path / "in")
    assert set(size.files) == {
        "config.json", "kdc.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert size.files["model.safetensors"] == (place / "hf" / "model.safetensors").stat().st_size


def test_an_artifact_of_kdcs_own_is_opened_where_it_is(tmp_path: Path) -> None:
    examples = tiny.pictures(8)
    written = tiny.artifact(tmp_path / "own", tiny.built_net(examples, "mlp"), examples, runtime="onnxruntime")
    assert take_in(tmp_path / "own", tmp_path / "in").folder == written.folder
    assert not (tmp_path / "in").exists()


def test_pictures(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    config = ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    artifact = take_in(tmp_path / "vit", tmp_path / "in")
    assert (artifact.inputs, artifact.labels) == (("image",), ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert artifact.signatures[0].inputs[0].axes == ("batch", 3, 8, 8)
    session = artifact.session(threads=1)
    assert session.run(session.example_batch(batch=2, length=1))["logits"].shape == (2, 3)
    assert len(session.answers(tiny.pictures(3, channels=3))) == 3


def test_half_precision_is_called_so(tmp_path: Path) -> None:
    foreign.checkpoint(tmp_path / "hf").to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    artifact = take_in(tmp_path / "hf", tmp_path / "in")
    assert artifact.precision == "bf16"
    assert next(iter(artifact.session().predict(foreign.ROWS).values())).dtype == np.float32


# Axes


def signature_of(tmp_path: Path, inputs: dict[str, Any], **settings: Any) -> Any:
    artifact = take_in(foreign.graph(tmp_path / "a.onnx", inputs, **settings), tmp_path / "in")
    session = artifact.session(threads=1)
    sizes = {"batch": 2, "length": 3} | dict(artifact.signatures[0].fixed)
    assert session.run(session.example_batch(**sizes))["total"].shape == (sizes["batch"], 4)
    return artifact.signatures[0]


def test_sizes_that_the_file_fixes_are_the_only_ones(tmp_path: Path) -> None:
    signature = signature_of(tmp_path, {"input_ids": (4, 16), "attention_mask": (4, 16)})
    assert [port.axes for port in signature.inputs] == [("batch", "length")] * 2
    assert signature.fixed == {"batch": 4, "length": 16}


def test_a_fixed_axis_that_is_no_length_stays_as_it_is(tmp_path: Path) -> None:
    signature = signature_of(tmp_path, {"features": ("n", 13)})
    assert signature.inputs[0].axes == ("batch", 13)
    assert signature.fixed == {}


def test_dynamic_axes_win_over_fixed_ones(tmp_path: Path) -> None:
    signature = signature_of(tmp_path, {"input_ids": ("n", "t"), "position_ids": (1, "t")})
    assert [port.axes for port in signature.inputs] == [("batch", "length"), (1, "length")]


@pytest.mark.parametrize("dtype", [onnx.TensorProto.INT64, onnx.TensorProto.INT32])
def test_ids_stay_below_the_table_that_they_look_up(tmp_path: Path, dtype: int) -> None:
    signature = signature_of(tmp_path, {"input": ("n", "t")}, dtype=dtype, vocabulary=7)
    assert signature.inputs[0].below == 7


def test_limits_come_from_the_config_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 40, "architectures": ["BertModel"]}))
    assert signature_of(tmp_path, {"input_ids": ("n", "t")}).limits == {"length": 40}


def test_an_axis_of_unknown_size_is_refused(tmp_path: Path) -> None:
    path = foreign.graph(tmp_path / "a.onnx", {"pixels": ("n", 3, "height")})
    with pytest.raises(KdcError, match=r"a\.onnx: axis 2 of its input 'pixels' is dynamic"):
        take_in(path, tmp_path / "in")


def test_inputs_without_a_common_batch_are_refused(tmp_path: Path) -> None:
    path = foreign.graph(tmp_path / "a.onnx", {"one": (2, 3), "other": (4, 3)})
    with pytest.raises(KdcError, match=r"its inputs share no first axis"):
        take_in(path, tmp_path / "in")


# Files


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = foreign.graph(folder / "a.onnx", {"input": ("n", "t")}, external="a.weights")
    session = take_in(path, tmp_path / "in").session(threads=1)
    assert session.run(session.example_batch(batch=2, length=3))["total"].tolist() == [[3.0] * 4] * 2
    assert artifact_size(tmp_path / "in").files["a.weights"] == 50 * 4 * 4
    (folder / "a.weights").unlink()
    with pytest.raises(KdcError, match=r"a\.onnx keeps its weights in a\.weights, which is not beside it"):
        take_in(path, tmp_path / "again")


def test_quantized_graphs_are_called_int8(place: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    plain = foreign.graph(tmp_path / "a.onnx", {"input": ("n", "t")})
    quantize_dynamic(plain, tmp_path / "int8.onnx", op_types_to_quantize=["Gather"])
    assert take_in(tmp_path / "int8.onnx", tmp_path / "in").precision == "int8"


def test_weights_in_blocks_are_called_int8(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    packed = helper.make_tensor("w", TensorProto.UINT8, [4, 1, 8], [0] * 32)
    scales = helper.make_tensor("s", TensorProto.FLOAT, [4], [1.0] * 4)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=16, N=4, bits=4, block_size=16
    )
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 4))
    ]
    graph = helper.make_graph([node], "blocks", ports[:1], ports[1:], [packed, scales])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "a.onnx")
    assert take_in(tmp_path / "a.onnx", tmp_path / "in").precision == "int8"


# What is none of these


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"there is no .*missing; kdc opens its artifacts, Hugging Face folders"):
        take_in(tmp_path / "missing", tmp_path / "in")


def test_a_folder_that_is_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(KdcError, match=r"folder is nothing that kdc can run; kdc opens"):
        take_in(tmp_path / "folder", tmp_path / "in")
    (tmp_path / "folder" / "a.onnx").write_bytes(b"")
    with pytest.raises(KdcError, match=r"folder is no model's folder; give the file: .*a\.onnx"):
        take_in(tmp_path / "folder", tmp_path / "in")
    (tmp_path / "folder" / "record.json").write_text("{}")
    with pytest.raises(KdcError, match=r"folder is a run; give folders under its artifacts/"):
        take_in(tmp_path / "folder", tmp_path / "in")


@pytest.mark.parametrize("content", [b"no protobuf at all", b""])
def test_an_onnx_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(KdcError, match=r"a\.onnx is no ONNX file"):
        take_in(tmp_path / "a.onnx", tmp_path / "in")


def test_an_ir_without_its_weights_and_one_that_is_none(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "bare.xml", tmp_path / "bare.xml")
    with pytest.raises(KdcError, match=r"bare\.xml has no bare\.bin beside it; an OpenVINO IR is two files"):
        take_in(tmp_path / "bare.xml", tmp_path / "in")
    (tmp_path / "bare.xml").write_text("<a/>")
    (tmp_path / "bare.bin").write_bytes(b"")
    with pytest.raises(KdcError, match=r"bare\.xml is no OpenVINO IR"):
        take_in(tmp_path / "bare.xml", tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, r"holds BertForMaskedLM; kdc knows architectures that end in ForSeq"),
        ({"architectures": None}, r"holds a model without a head"),
        (None, r"config\.json is no JSON"),
    ],
)
def test_checkpoints_of_other_kinds(place: Path, tmp_path: Path, change: Any, message: str) -> None:
    folder = shutil.copytree(place / "hf", tmp_path / "hf")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text("{" if change is None else json.dumps(settings | change))
    with pytest.raises(KdcError, match=message):
        take_in(folder, tmp_path / "in")


def test_checkpoints_without_weights_that_kdc_loads(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "hf", tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    with pytest.raises(KdcError, match=r"hf has no \*\.safetensors; give the file: .*model\.onnx"):
        take_in(folder, tmp_path / "in")
    (folder / "model.onnx").unlink()
    with pytest.raises(KdcError, match=r"kdc loads no pickled weights: save it as safetensors"):
        take_in(folder, tmp_path / "again")


def test_checkpoints_that_lack_some_weights(place: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(place / "hf", tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KdcError, match=r"hf lacks 1 of the model's weights, among them classifier\.weight"):
        take_in(folder, tmp_path / "in")
