"""Whole runs on small files: the record, the files that ship, and what a second run computes anew."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.cli.main import main
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import Graph
from kdc.export.onnxruntime import OnnxRuntime
from kdc.record import RunRecord
from kdc.store import Store
from tests import runs

pytestmark = pytest.mark.slow

WHOLE = ("runtime=[onnxruntime,torch]",)
NAMES = ["teacher.torch", "teacher.onnxruntime", "student.torch", "student.onnxruntime", "student+int8.onnxruntime"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.csv`, the cache that this module's runs share, and the folder of a whole run that was really timed."""
    place = tmp_path_factory.mktemp("runs")
    runs.write_csv(place / "train.csv")
    runs.run(runs.config(place / "train.csv", place / "cache", *WHOLE), place / "whole")
    return place


@pytest.fixture(scope="module")
def whole(place: Path) -> RunRecord:
    return RunRecord.load(place / "whole" / "record.json")


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)


def again(place: Path, tmp_path: Path, *overrides: str) -> RunRecord:
    return runs.run(runs.config(place / "train.csv", place / "cache", *overrides), tmp_path / "out")


def computed(record: RunRecord) -> list[str]:
    return [stage.name for stage in record.stages if not stage.cached]


def test_the_record_is_whole(whole: RunRecord, place: Path) -> None:
    assert (whole.run.status, whole.run.error, whole.run.failed_stage) == ("ok", None, None)
    assert whole.run.wall_seconds is not None
    assert whole.run.wall_seconds > sum(stage.wall_seconds for stage in whole.stages) * 0.99
    assert whole.environment is not None
    assert whole.environment.packages["torch"]
    assert whole.config["train"]["epochs"] == 2
    assert whole.dataset is not None
    assert whole.dataset.splits == {"train": 64, "validation": 8, "test": 8}
    assert whole.dataset.labels == ["negative", "positive"]
    exports = [f"export {name}" for name in NAMES]
    assert [stage.name for stage in whole.stages] == [
        "data", "teacher", "signals", "student", "compress int8", *exports, *(f"predict {name}" for name in NAMES),
        "latency",
    ]  # fmt: skip
    assert whole.baseline == "teacher.torch"
    assert whole.verdict
    assert whole.verdict.startswith("student+int8 in onnxruntime keeps")
    raw = json.loads((place / "whole" / "record.json").read_text())
    assert raw["schema"] == "kdc.record/1"


def test_training_is_on_the_record(whole: RunRecord) -> None:
    student = next(stage for stage in whole.stages if stage.name == "student")
    assert student.train is not None
    assert student.notes == ["student layers from the teacher's: 0<-1"]
    assert [audit.step for audit in student.train.audit] == [0, 4]
    assert (student.train.epochs, student.train.steps) == (2, 8)
    logged = [row for row in student.train.history if "kl" in row]
    assert logged
    for row in logged:
        assert row["loss"] == pytest.approx(row["kl_weighted"] + row["hard_weighted"], rel=1e-2, abs=1e-3)
        assert row["hard_weighted"] == pytest.approx(0.5 * row["hard"])
    assert sum("eval_accuracy" in row for row in student.train.history) == 2


def test_every_variant_is_measured(whole: RunRecord, place: Path) -> None:
    assert [variant.name for variant in whole.variants] == NAMES
    for variant in whole.variants:
        assert variant.artifact is not None
        files = {f.name: f.stat().st_size for f in (place / "whole" / variant.artifact.path).iterdir()}
        assert variant.artifact.files == files
        assert variant.artifact.bytes == sum(files.values()) > variant.artifact.model_bytes > 0
        assert variant.quality is not None
        assert (variant.quality.split, variant.quality.n) == ("test", 8)
        assert variant.quality.metrics["accuracy"].primary
        assert [latency.workload.get("length", "rows") for latency in variant.latency] == [16, "rows"]
        assert len(variant.latency[0].samples) == 1
        assert variant.memory is not None
        assert variant.memory.peak_rss_bytes > variant.memory.idle_rss_bytes
        assert variant.fidelity is not None
        assert variant.fidelity["agreement"] > 0.9
        against = [versus.against for versus in variant.latency[0].versus]
        before = {"student+int8.onnxruntime": "student.onnxruntime"}.get(variant.name)
        wanted = [name for name in ("teacher.torch", "teacher.onnxruntime", before) if name not in (None, variant.name)]
        assert against == wanted
    teacher, student, int8 = (whole.variant(name) for name in (NAMES[0], NAMES[3], NAMES[4]))
    assert teacher.quality
    assert teacher.quality.retained is None
    assert student.parents == ["teacher"]
    assert int8.parents == ["student"]
    assert int8.precision == "int8"
    assert int8.macs
    assert int8.macs.int8 >= 0.95 * int8.macs.eligible > 0
    assert int8.kernels
    assert 0 < int8.kernels.kernels < int8.kernels.operators
    assert int8.kernels.fused["MatMulIntegerToFloat"] > 0
    assert student.artifact
    assert int8.artifact
    assert int8.artifact.model_bytes < student.artifact.model_bytes


def test_the_folder_holds_what_the_run_made(whole: RunRecord, place: Path) -> None:
    folder = place / "whole"
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["student", "teacher"]
    assert (folder / "models" / "student" / "model.safetensors").is_file()
    assert {path.stem for path in (folder / "predictions").iterdir()} == set(NAMES)
    assert whole.verdict
    assert whole.verdict in (folder / "report.md").read_text()


SERVE = """
import json, sys
sys.modules["kdc"] = None
import onnxruntime
from transformers import AutoTokenizer
folder, texts = sys.argv[1], sys.argv[2:]
inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
session = onnxruntime.InferenceSession(f"{folder}/forward.onnx")
logits = session.run(None, {port.name: inputs[port.name] for port in session.get_inputs()})[0]
labels = json.load(open(f"{folder}/config.json"))["id2label"]
print(json.dumps([labels[str(i)] for i in logits.argmax(-1)]))
print(json.dumps(logits.tolist()))
"""


@pytest.mark.parametrize("variant", ["student.onnxruntime", "student+int8.onnxruntime"])
def test_an_onnx_artifact_serves_without_kdc(variant: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "whole" / "artifacts" / variant
    texts = ["the film was great", "awful", "really and " * 30 + "poor"]
    answer = subprocess.run([sys.executable, "-c", SERVE, str(folder), *texts], capture_output=True, text=True)
    labels, logits = (json.loads(line) for line in answer.stdout.splitlines()[-2:])
    assert main(["predict", str(folder), "--json", *texts]) == 0
    ours = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in ours] == labels
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert [line["score"] for line in ours] == pytest.approx(shares.max(-1).tolist(), abs=2e-2)


def test_a_torch_artifact_is_a_plain_transformers_folder(place: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from kdc.data.examples import Examples
    from kdc.export.artifact import Artifact

    folder = place / "whole" / "artifacts" / "student.torch"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = ["the film was great", "awful"]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits.numpy()
    ours = Artifact.open(folder).session().predict(Examples({"text": texts}))["logits"]
    np.testing.assert_allclose(ours, logits, atol=1e-5)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_a_second_run_computes_nothing_but_its_timing(
    whole: RunRecord, place: Path, tmp_path: Path, untimed: None
) -> None:
    second = again(place, tmp_path, *WHOLE)
    assert computed(second) == ["latency"]
    assert [stage.key for stage in second.stages] == [stage.key for stage in whole.stages]
    assert [v.quality for v in second.variants] == [v.quality for v in whole.variants]
    assert second.stages[1].train == whole.stages[1].train
    assert Store(place / "cache").verify() == []


def test_another_compression_computes_its_own_stages_only(place: Path, tmp_path: Path, untimed: None) -> None:
    without = again(place, tmp_path / "a", "compress=none", "runtime=onnxruntime")
    assert computed(without) == ["latency"]
    assert [v.name for v in without.variants] == ["teacher.torch", "teacher.onnxruntime", "student.onnxruntime"]
    changed = again(place, tmp_path / "b", "runtime=onnxruntime", "compress.int8.per_channel=false")
    own = "student+int8.onnxruntime"
    assert computed(changed) == ["compress int8", f"export {own}", f"predict {own}", "latency"]


def test_without_a_student_the_teacher_is_compressed(place: Path, tmp_path: Path, untimed: None) -> None:
    record = again(place, tmp_path, "student=none", "runtime=onnxruntime")
    assert [v.name for v in record.variants] == ["teacher.torch", "teacher.onnxruntime", "teacher+int8.onnxruntime"]
    assert not {"signals", "student"} & {stage.name for stage in record.stages}


def test_bf16_is_realized_by_torch_and_noted_elsewhere(place: Path, tmp_path: Path, untimed: None) -> None:
    record = again(place, tmp_path, *WHOLE, "compress=bf16")
    half, full = record.variant("student+bf16.torch"), record.variant("student.torch")
    assert half.precision == "bf16"
    assert half.artifact
    assert full.artifact
    assert half.artifact.files["model.safetensors"] < 0.6 * full.artifact.files["model.safetensors"]
    assert "student+bf16: onnxruntime has no bf16, so not there" in record.notes
    assert not any(v.name == "student+bf16.onnxruntime" for v in record.variants)


def test_an_automatic_runtime_that_cannot_hold_a_model_is_left_out(
    place: Path, tmp_path: Path, untimed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usable = ("torch", "onnxruntime")
    monkeypatch.setattr("kdc.checks.unusable", lambda runtime: None if runtime.name in usable else "not now")
    lower = OnnxRuntime.lower
    refuses = [False, True]  # the teacher, the student

    def fussy(self: OnnxRuntime, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        if not plan.modules and refuses.pop(0):
            raise ValueError("no float today")
        lower(self, graphs, plan, folder)

    monkeypatch.setattr(OnnxRuntime, "lower", fussy)
    cache = tmp_path / "cache"
    shutil.copytree(place / "cache", cache)
    for made in (cache / "stages" / "export").iterdir():
        shutil.rmtree(made)
    auto = runs.config(place / "train.csv", cache, *WHOLE, "runtime=auto", "compress=int8")
    record = runs.run(auto, tmp_path / "out")
    assert [v.name for v in record.variants] == [
        "teacher.torch", "teacher.onnxruntime", "student.torch", "student+int8.onnxruntime"
    ]  # fmt: skip
    said = "student: onnxruntime is left out: ValueError: no float today"
    assert said in record.notes
    assert said in capsys.readouterr().out
    shutil.rmtree(cache / "stages" / "export")
    refuses[:] = [True]
    with pytest.raises(ValueError, match="no float today"):  # where no teacher is, no gain could be told
        runs.run(auto, tmp_path / "again")
    shutil.rmtree(cache / "stages" / "export", ignore_errors=True)
    monkeypatch.setattr(OnnxRuntime, "lower", lambda *_: 1 / 0)
    named = runs.config(place / "train.csv", cache, "runtime=[torch,onnxruntime]", "compress=none")
    with pytest.raises(ZeroDivisionError):  # nobody is left out who was asked for by name
        runs.run(named, tmp_path / "named")


def test_hard_labels_alone_need_no_signals(place: Path, tmp_path: Path, untimed: None) -> None:
    record = again(place, tmp_path, "loss.terms.kl=null", "compress=none", "runtime=torch")
    assert "signals" not in [stage.name for stage in record.stages]
    assert computed(record)[0] == "student"


def test_pairs_of_texts(tmp_path: Path, untimed: None, capsys: pytest.CaptureFixture[str]) -> None:
    train = runs.write_csv(tmp_path / "pairs.csv", 60, pairs=True)
    settings = runs.config(train, tmp_path / "cache", "compress=none", "runtime=torch", "dataset.metric=f1")
    record = runs.run(settings, tmp_path / "out")
    assert all(v.quality and v.quality.metrics["f1"].primary for v in record.variants)
    artifact = str(tmp_path / "out" / "artifacts" / "student.torch")
    said = []
    for second in ("good", "the film was really awful and poor"):
        capsys.readouterr()
        assert main(["predict", artifact, "--json", "a film", "--pair", second]) == 0
        said.append(json.loads(capsys.readouterr().out)["score"])
    assert said[0] != said[1]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_images(kind: str, tmp_path: Path, untimed: None) -> None:
    from sklearn.datasets import load_digits

    from kdc.export.artifact import Artifact

    words = [f"teacher={kind}", f"student={kind}_small", "dataset=digits", "dataset.limit=400", "bench=quick"]
    epochs = ["teacher.epochs=12", "train.epochs=12", "train.learning_rate=1e-3"]
    settings = runs.to_run_config(runs.compose([*words, *epochs, f"cache_dir={tmp_path / 'cache'}"]))
    record = runs.run(settings, tmp_path / "out")
    assert [v.name for v in record.variants][-1] == "student+int8.onnxruntime"
    for variant in record.variants:
        assert variant.quality
        assert variant.quality.metrics["accuracy"].value > 0.7
    session = Artifact.open(tmp_path / "out" / "artifacts" / "student+int8.onnxruntime").session()
    pictures = (load_digits().images[:50, :, :, None] * 255 / 16).astype(np.uint8)
    answers = session.answers(runs.tiny.Examples({"image": pictures}))
    assert np.mean([answer == str(digit) for answer, digit in zip(answers, load_digits().target, strict=False)]) > 0.7


def failing(record: Path) -> RunRecord:
    read = RunRecord.load(record / "out" / "record.json")
    assert read.run.status == "failed"
    assert (record / "out" / "report.md").is_file()
    return read


def test_a_failed_run_says_where_and_why(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KdcError("the export went wrong", "try again", exit_code=1)

    monkeypatch.setattr("kdc.export.verified.export_verified", broken)
    with pytest.raises(KdcError, match="the export went wrong"):
        again(place, tmp_path, "compress.int8.embeddings=false", "runtime=onnxruntime")
    record = failing(tmp_path)
    assert record.run.error == "the export went wrong; try again"
    assert record.run.failed_stage == "export student+int8.onnxruntime"
    assert [v.name for v in record.variants] == ["teacher.torch", "teacher.onnxruntime", "student.onnxruntime"]
    assert record.stages[-1].name == "export student.onnxruntime"


def test_an_unexpected_error_is_named_by_its_type(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("kdc.timing.time_variants", broken)
    with pytest.raises(ZeroDivisionError):
        again(place, tmp_path, "compress=none", "runtime=torch")
    record = failing(tmp_path)
    assert (record.run.failed_stage, record.run.error) == ("latency", "ZeroDivisionError: first line")


def test_an_interrupted_training_is_gone_on_with(
    tmp_path: Path, untimed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdc.distill.checkpoints import Checkpoints

    words = ("compress=none", "runtime=torch", "train.checkpoint_seconds=0.001")
    settings = runs.config(runs.write_csv(tmp_path / "train.csv"), tmp_path / "cache", *words)
    on_step_end = Checkpoints.on_step_end

    def interrupted(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt
        on_step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_step_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.run(settings, tmp_path / "out")
    record = failing(tmp_path)
    assert (record.run.error, record.run.failed_stage) == ("interrupted", "teacher")
    (left,) = [entry for entry in Store(tmp_path / "cache").entries() if entry.unfinished]
    assert left.name == "teacher"

    record = runs.run(settings, tmp_path / "second")
    assert record.run.status == "ok"
    resumed = {stage.name: stage.train.resumed_at for stage in record.stages if stage.train}
    assert resumed == {"teacher": 4, "student": None}
    assert not any(entry.unfinished for entry in Store(tmp_path / "cache").entries())
