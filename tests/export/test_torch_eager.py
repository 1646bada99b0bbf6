"""The torch runtime: `transformers` models ship as its folders, others as `.pt2`, both in the dtype of the plan."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.artifact import Artifact
from tests import tiny

pytestmark = pytest.mark.slow

BF16 = PrecisionPlan(default="bf16")


@pytest.mark.parametrize("plan", [PrecisionPlan(), BF16], ids=["fp32", "bf16"])
def test_a_transformers_model_loads_with_plain_transformers(tmp_path: Path, plan: PrecisionPlan) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    examples = tiny.sentences(20)
    built = tiny.built_bert(examples)
    session = tiny.artifact(tmp_path, built, examples, runtime="torch", plan=plan).session()
    ours = session.predict(examples)["logits"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="auto").eval()
    assert model.dtype == (torch.bfloat16 if plan.default == "bf16" else torch.float32)
    assert built.model.dtype == torch.float32, "the model that was exported is as before"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = list(examples["text"])
    with torch.no_grad():
        theirs = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.float().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 if plan.default == "fp32" else 0.1)
    if plan.default == "fp32":
        answers = pipeline("text-classification", model=str(tmp_path), device="cpu")(texts)
        assert [answer["label"] for answer in answers] == session.answers(examples)


@pytest.mark.parametrize(("plan", "dtype"), [(PrecisionPlan(), torch.float32), (BF16, torch.bfloat16)])
def test_a_plain_net_ships_as_a_program_that_torch_loads(
    tmp_path: Path, plan: PrecisionPlan, dtype: torch.dtype
) -> None:
    examples = tiny.pictures(12)
    built = tiny.built_net(examples, "cnn")
    session = tiny.artifact(tmp_path, built, examples, runtime="torch", plan=plan).session()
    program = torch.export.load(tmp_path / "forward.pt2").module()
    assert {weight.dtype for weight in program.parameters()} == {dtype}
    pixels = built.encoder.collate(built.encoder.encode(examples))["pixel_values"]
    with torch.no_grad():
        (logits,) = program(torch.from_numpy(pixels).to(dtype))
    np.testing.assert_allclose(session.predict(examples)["logits"], logits.float().numpy(), atol=1e-6)
    assert next(built.model.parameters()).dtype == torch.float32


def test_bf16_halves_the_file(tmp_path: Path) -> None:
    examples = tiny.sentences(20)
    built = tiny.built_bert(examples)
    sizes = {}
    for name, plan in (("fp32", PrecisionPlan()), ("bf16", BF16)):
        tiny.artifact(tmp_path / name, built, examples, runtime="torch", plan=plan)
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
    assert 0.48 < sizes["bf16"] / sizes["fp32"] < 0.6


def test_threads_are_as_asked(tmp_path: Path) -> None:
    examples = tiny.pictures(12)
    written = tiny.artifact(tmp_path, tiny.built_net(examples, "mlp"), examples, runtime="torch")
    before = torch.get_num_threads()
    try:
        written.session(threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_folder_that_is_no_artifact_says_so(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"is no kdc artifact: it has no kdc\.json"):
        Artifact.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", r"kdc\.json is damaged \(JSONDecodeError"),
        ("{}", r"kdc\.json is damaged \(KeyError"),
        ('{"format": 99}', r"format 99 is not this kdc's"),
        ("[]", r"kdc\.json is damaged \(TypeError"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "kdc.json").write_text(content, encoding="utf-8")
    with pytest.raises(KdcError, match=says):
        Artifact.open(tmp_path)


def edited(folder: Path, **changes: object) -> None:
    path = folder / "kdc.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    examples = tiny.sentences(12)
    tiny.artifact(tmp_path, tiny.built_bert(examples), examples, runtime="torch")
    return tmp_path


def test_a_manifest_does_not_choose_what_is_imported(
    written: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("plugins")
    (place / "kdc_test_plugin.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    edited(written, plugins=["kdc_test_plugin"])
    with pytest.raises(KdcError, match="needs the plugin kdc_test_plugin; name it: --plugin kdc_test_plugin"):
        Artifact.open(written)
    assert "kdc_test_plugin" not in sys.modules
    try:
        assert Artifact.open(written, ["kdc_test_plugin"]).inputs == ("text",)
        Artifact.open(written)  # a run has imported its plugins
    finally:
        sys.modules.pop("kdc_test_plugin", None)


def test_names_that_lead_out_of_the_folder_are_refused(written: Path) -> None:
    manifest = json.loads((written / "kdc.json").read_text(encoding="utf-8"))
    (signature,) = manifest["signatures"]
    edited(written, signatures=[{**signature, "name": "../forward"}])
    with pytest.raises(KdcError, match=r"kdc\.json is damaged .*'\.\./forward' is no name"):
        Artifact.open(written)


def test_only_models_of_transformers_are_made_from_an_artifact(written: Path) -> None:
    settings = json.loads((written / "config.json").read_text(encoding="utf-8"))
    for name in ("BertConfig", "NoSuchModel", "pipeline"):
        (written / "config.json").write_text(json.dumps(settings | {"architectures": [name]}), encoding="utf-8")
        with pytest.raises(KdcError, match=f"transformers has no model '{name}'"):
            Artifact.open(written).session()


def test_pickled_weights_are_not_loaded(written: Path) -> None:
    (written / "model.safetensors").rename(written / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        Artifact.open(written).session()


def test_an_onnx_artifact_is_served_without_torch_or_transformers(tmp_path: Path) -> None:
    """A serving process that imported them would need seconds and hundreds of megabytes more."""
    import subprocess

    examples = tiny.sentences(12)
    tiny.artifact(tmp_path, tiny.built_bert(examples), examples, runtime="onnxruntime")
    program = (
        "import sys; from pathlib import Path; from kdc.export.artifact import Artifact; "
        "from kdc.data.examples import Examples; session = Artifact.open(Path(sys.argv[1])).session(threads=1); "
        "print(session.answers(Examples({'text': ['good film']}))); "
        "print([name for name in ('torch', 'transformers', 'datasets', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    answers, imported = done.stdout.splitlines()
    assert answers in ("['negative']", "['positive']")
    assert imported == "[]"


def test_a_gpu_is_used_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one: the model is told to move, and a machine without a GPU refuses in one line."""
    from transformers import PreTrainedModel

    examples = tiny.sentences(20)
    written = tiny.artifact(tmp_path, tiny.built_bert(examples), examples, runtime="torch")
    moved: list[str] = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, device: moved.append(device) or self)
    assert written.runtime.processor == "cpu"
    written.session()
    gpu = replace(written, runtime=written.runtime.model_copy(update={"device": "cuda"}))
    assert gpu.runtime.processor == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu.session()
    assert moved == ["cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KdcError, match=r"^runtime torch: device=cuda, but torch sees no GPU here; use device=cpu$"):
        gpu.session()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", ["bert", "cnn"])
def test_a_gpu_answers_as_the_cpu_does(tmp_path: Path, kind: str) -> None:
    examples = tiny.sentences(20) if kind == "bert" else tiny.pictures(12)
    built = tiny.built_bert(examples) if kind == "bert" else tiny.built_net(examples, kind)
    written = tiny.artifact(tmp_path, built, examples, runtime="torch")
    gpu = replace(written, runtime=written.runtime.model_copy(update={"device": "cuda"}))
    np.testing.assert_allclose(
        gpu.session().predict(examples)["logits"], written.session().predict(examples)["logits"], atol=1e-4
    )
