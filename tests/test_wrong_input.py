"""Wrong input through the real command: one clear line, the right exit code, no traceback, nothing half-written.

Refused before a run exists, and tested elsewhere through the same command (`tests/cli/test_run.py`): unknown choices
and keys, mistyped values, a misspelt metric, a negative temperature, a batch size of zero, broken YAML, an output
folder that holds a record or cannot be written. A full device and a store without permission: `tests/test_store.py`.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdc import checks, manifest
from kdc.cli.main import main
from kdc.export.artifact import Artifact
from kdc.export.modules import graph_callables
from kdc.models.build import load_model
from kdc.record import RunRecord
from kdc.store import Store
from kdc.tasks.inference import predict_rows
from tests import runs, tiny

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]
QUICK = ("compress=none", "runtime=torch")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own to run in, with a sound `train.csv`."""
    monkeypatch.chdir(tmp_path)
    runs.write_csv(tmp_path / "train.csv", 60)
    return tmp_path


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)


def kdc_run(place: Path, *overrides: str) -> int:
    return main(["run", *runs.words(place / "train.csv", place / "cache", *QUICK, *overrides)])


def error_of(capsys: Capture) -> str:
    """The one line that says what was wrong."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("kdc: error: ")] == lines[-1:], said
    return lines[-1].removeprefix("kdc: error: ")


def failed_record(place: Path) -> RunRecord:
    """The record that the run left: nothing else may lie beside it but its report."""
    (path,) = place.glob("outputs/*/*/record.json")
    assert {file.name for file in path.parent.iterdir()} <= {
        "record.json",
        "report.md",
        "report.html",
        "config.yaml",
        "log.txt",
    }
    record = RunRecord.load(path)
    assert record.run.status == "failed"
    return record


def nothing_half_written(place: Path) -> None:
    assert list((place / "cache").glob("tmp/*")) == []
    assert Store(place / "cache").verify() == []


GOOD = b"text,label\n" + b"".join(b"a good film %d,positive\na bad film %d,negative\n" % (i, i) for i in range(20))

FILES = {
    "missing": (None, "dataset.files.train: there is no file"),
    "empty": (b"", "train.csv is empty"),
    "header only": (b"text,label\n", "no rows"),
    "one class": (b"text,label\n" + b"a film,positive\n" * 20, "every row has the label 'positive'"),
    "missing column": (GOOD.replace(b"label", b"sentiment", 1), "there is no column 'label' among text, sentiment"),
    "empty text": (GOOD + b"   ,positive\n", "train.csv, row 41: the text is empty"),
    "no label": (GOOD + b"a film,\n", "train.csv, row 41: there is no label"),
    "not UTF-8": (GOOD + b"a caf\xe9,positive\n", "is not utf-8: byte 936 (line 42) is 0xe9"),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, place: Path, capsys: Capture) -> None:
    content, message = FILES[case]
    (place / "train.csv").unlink()
    if content is not None:
        (place / "train.csv").write_bytes(content)
    assert kdc_run(place) == 2
    line = error_of(capsys)
    assert message in line
    assert "train.csv" in line
    record = failed_record(place)
    assert (record.run.failed_stage, record.run.error) == ("data", line)
    nothing_half_written(place)


def test_a_label_outside_the_label_set(place: Path, capsys: Capture) -> None:
    (place / "train.csv").write_bytes(GOOD + b"a film,neutral\n")
    assert kdc_run(place, "dataset.labels=[negative,positive]") == 2
    assert "train.csv, row 41: label 'neutral' is none of negative, positive" in error_of(capsys)
    nothing_half_written(place)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["student.layers=3"], "student.layers: 3 reaches beyond the teacher, which has 2 layers"),
        (["student.layers=[0,2]"], "student.layers: [0, 2] reaches beyond the teacher"),
        (["dataset.metric=acuracy"], "did you mean 'accuracy'?"),
        (["compress=bf16", "runtime=onnxruntime"], "compress=bf16: no chosen runtime computes bf16"),
    ],
)
def test_what_cannot_go_together(words: list[str], message: str, place: Path, capsys: Capture) -> None:
    assert kdc_run(place, *words) == 2
    assert message in error_of(capsys)
    assert not (place / "outputs").exists()
    assert not (place / "cache").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["student=bilstm", "compress=prune_heads"], "compress.prune_heads: "),
        (["student=textcnn", "compress=prune_width"], "compress.prune_width: "),
        (["student=bilstm", "compress=first_token"], "compress.first_token: the head of a BiLSTM may read more than"),
        (
            ["compress=prune_ffn", "compress.prune_ffn.include=['*.nothing']"],
            "compress.prune_ffn.include: '*.nothing' names none of the modules that prune_ffn would change",
        ),
        (
            ["compress=int8", "runtime=onnxruntime", "compress.int8.exclude=['clasifier']"],
            "compress.int8.exclude: 'clasifier' names none of the modules",
        ),
        (
            ["student=none", "compress=prune_heads", "compress.prune_heads.ratio=0.99"],
            "compress.prune_heads.ratio=0.99 leaves fewer heads than layers, and each needs one",
        ),
        (["compress=svd", "compress.svd.rank=999"], "compress.svd.rank=999 does not pay: "),
        (
            ["compress=svd", "compress.svd.include=['classifier']"],
            "compress.svd.include: 'classifier' names none",
        ),
    ],
)
def test_a_pass_that_finds_nothing_is_refused_before_training(
    words: list[str], message: str, place: Path, capsys: Capture
) -> None:
    assert kdc_run(place, *words) == 2
    assert message in error_of(capsys)
    assert [stage.name for stage in failed_record(place).stages] == ["data"]
    nothing_half_written(place)


def test_a_text_model_on_images(place: Path, capsys: Capture) -> None:
    assert main(["run", "dataset=digits", "teacher=bert_tiny", "student=none"]) == 2
    line = error_of(capsys)
    assert "teacher: bert_tiny reads texts, but dataset digits holds images; choose teacher=mlp or cnn" in line
    assert not (place / "outputs").exists()


def test_a_runtime_that_is_not_installed(place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda package: None if package == "onnxruntime" else package)
    assert kdc_run(place, "runtime=onnxruntime") == 2
    assert "runtime=onnxruntime: not installed: onnxruntime; pip install onnxruntime" in error_of(capsys)
    assert not (place / "outputs").exists()
    assert not (place / "cache").exists()


def test_a_package_that_another_distribution_brings_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "packages_distributions", lambda: {"module": ["some-package"]})
    monkeypatch.setattr(checks, "find_spec", lambda name: name if name in ("onnxruntime", "module") else None)
    assert checks._importable("onnxruntime")
    assert checks._importable("some-package")
    assert not checks._importable("other-package")


def checkpoint(folder: Path, labels: tuple[str, ...]) -> Path:
    encoder = tiny.encoder(tiny.sentences(60))
    tiny.bert(encoder.vocab_size, labels=labels).save_pretrained(folder)
    encoder.save(folder)
    return folder


def with_teacher(place: Path, labels: tuple[str, ...]) -> int:
    path = checkpoint(place / "teacher", labels)
    train = f"dataset.files.train={place / 'train.csv'}"
    words = ["dataset=csv", train, f"cache_dir={place / 'cache'}", *QUICK, *runs.BENCH]
    return main(["run", *words, "teacher=bert", f"teacher.path={path}", "student=none"])


def test_a_teacher_with_another_number_of_labels(place: Path, capsys: Capture) -> None:
    assert with_teacher(place, ("negative", "neutral", "positive")) == 2
    line = error_of(capsys)
    assert "teacher: the checkpoint has 3 labels (negative, neutral, positive), the data has 2" in line
    assert failed_record(place).run.failed_stage == "teacher"
    nothing_half_written(place)


def test_a_student_with_another_number_of_labels(place: Path, capsys: Capture) -> None:
    path = checkpoint(place / "student", ("a", "b", "c"))
    assert kdc_run(place, "student=distilbert", f"student.path={path}") == 2
    assert "student: the checkpoint has 3 labels (a, b, c), the data has 2" in error_of(capsys)
    nothing_half_written(place)


def test_a_teacher_that_names_its_labels_otherwise(place: Path, capsys: Capture) -> None:
    assert with_teacher(place, ("bad", "good")) == 2
    line = error_of(capsys)
    assert "the checkpoint's labels (bad, good) are not the data's (negative, positive)" in line
    assert "teacher.label_map" in line


def test_a_teacher_with_the_labels_in_another_order_is_matched(place: Path, untimed: None) -> None:
    assert with_teacher(place, ("positive", "negative")) == 0
    rows = tiny.sentences(8, seed=3)
    ours = Artifact.open(next(place.glob("outputs/2*/*/artifacts/teacher.torch"))).session().predict(rows)["logits"]
    built = load_model(place / "teacher", tiny.task())
    graphs = graph_callables(tiny.task().graphs(built.model, built.encoder, rows))
    theirs = predict_rows(tiny.task(), graphs, built.encoder, built.encoder.encode(rows))["logits"]
    assert ours == pytest.approx(theirs[:, ::-1], abs=1e-4)


def test_a_full_disk_while_publishing(
    place: Path, untimed: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = manifest._write_manifest

    def full(folder: Path, content: Any) -> None:
        if folder.name.startswith("student"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        write(folder, content)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_write_manifest", full)
        assert kdc_run(place) == 1
    line = error_of(capsys)
    assert line.startswith(f"stage student: the disk of the store {place / 'cache'} is full")
    assert "cache_dir=" in line
    assert RunRecord.load(next(place.glob("outputs/*/*/record.json"))).run.failed_stage == "student"
    nothing_half_written(place)
    assert kdc_run(place) == 0
    said = capsys.readouterr().err
    assert [line.split()[-1] for line in said.splitlines() if line.split()[:1] == ["teacher"]] == ["reused"]


def test_a_corrupted_stage_is_said_and_built_again(place: Path, untimed: None, capsys: Capture) -> None:
    assert kdc_run(place) == 0
    (weights,) = (place / "cache" / "stages" / "student").rglob("model.safetensors")
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    capsys.readouterr()
    assert kdc_run(place) == 0
    said = capsys.readouterr().err
    assert "in the store was damaged (model/model.safetensors was changed); building it again" in said
    assert Store(place / "cache").verify() == []
    assert weights.read_bytes() == before, "the same training makes the same weights"


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(place: Path) -> None:
    words = runs.words(place / "train.csv", place / "cache", *QUICK, "train.checkpoint_seconds=0.01")
    words = [word for word in words if not word.startswith("teacher.epochs")] + ["teacher.epochs=2000"]
    command = [sys.executable, "-m", "kdc", "run", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell that starts the tests in the background has them ignore Ctrl-C, and the child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(place.glob("cache/scratch/teacher-*/checkpoint-*/complete")) and time.monotonic() < deadline:
            assert run.poll() is None, run.communicate()
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130
    assert said.splitlines()[-1] == "kdc: interrupted; finished stages are kept, run the same command to go on"
    assert "Traceback" not in said
    assert failed_record(place).run.error == "interrupted"
    nothing_half_written(place)
    (left,) = (entry for entry in Store(place / "cache").entries() if entry.unfinished)
    assert list(left.path.glob("checkpoint-*/complete"))
