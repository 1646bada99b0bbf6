"""Passes in whole runs: what each makes of the model, how it recovers, and that nothing else is computed anew."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdc import machine
from kdc.models.build import load_model
from kdc.record import RunRecord
from tests import runs, tiny

pytestmark = pytest.mark.slow

TORCH = ("runtime=torch", "bench.rows=0", "train.precision=fp32")
PRUNED = ("compress=[prune_heads,prune_ffn]", "compress.prune_ffn.align=1")
RECOVER = "compress.prune_ffn.recover={epochs: 2, learning_rate: 1e-3}"


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_csv(tmp_path_factory.mktemp("data") / "train.csv", 80)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)


def run(train: Path, cache: Path, folder: Path, *words: str) -> RunRecord:
    return runs.run(runs.config(train, cache, *TORCH, *PRUNED, *words), folder / "run")


def made(record: RunRecord) -> list[str]:
    """The stages that make models and plans, those that were computed anew marked."""
    passed = ("export", "predict", "latency", "data")
    return [
        f"{stage.name}{'' if stage.cached else ' *'}" for stage in record.stages if not stage.name.startswith(passed)
    ]


def test_passes_follow_one_another_and_recover(train: Path, cache: Path, tmp_path: Path) -> None:
    record = run(train, cache, tmp_path, RECOVER)
    assert made(record) == [
        "teacher *", "signals *", "student *", "compress prune_heads *", "compress prune_ffn *", "recover prune_ffn *",
    ]  # fmt: skip
    assert {variant.name: variant.parents for variant in record.variants} == {
        "teacher.torch": [], "student.torch": ["teacher"], "student+prune_heads.torch": ["student"],
        "student+prune_heads+prune_ffn.torch": ["student+prune_heads"],
    }  # fmt: skip
    sizes = [variant.parameters.total for variant in record.variants if variant.parameters]
    head, neurons = 16 * (3 * (32 + 1) + 32), 32 * (2 * 32 + 1)
    assert sizes[1] - sizes[2] == head
    assert sizes[2] - sizes[3] == neurons
    notes = {stage.name: stage.notes for stage in record.stages}
    assert notes["compress prune_heads"] == ["bert.encoder.layer.0: 2 -> 1 heads"]
    assert notes["compress prune_ffn"] == ["bert.encoder.layer.0: 64 -> 32 neurons"]
    trained = next(stage.train for stage in record.stages if stage.name == "recover prune_ffn")
    assert trained is not None
    assert trained.epochs == 2
    rates = [row["learning_rate"] for row in trained.history if "learning_rate" in row]
    assert 5e-4 < max(rates) <= 1e-3
    assert {"kl", "hard"} <= {key for row in trained.history for key in row}
    again = run(train, cache, tmp_path / "other", "compress.prune_ffn.recover={epochs: 1, learning_rate: 1e-3}")
    assert [name for name in made(again) if name.endswith("*")] == ["recover prune_ffn *"]


def test_rounds_follow_one_another_to_the_ratio(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("compress=prune_ffn", "compress.prune_ffn.align=1", "compress.prune_ffn.rounds=3")
    recover = "compress.prune_ffn.recover={epochs: 3, learning_rate: 1e-3}"
    record = runs.run(runs.config(train, cache, *TORCH, *words, recover), tmp_path / "run")
    rounds = [f"{what} prune_ffn {number}/3 *" for number in (1, 2, 3) for what in ("compress", "recover")]
    assert made(record)[-6:] == rounds
    notes = [stage.notes for stage in record.stages if stage.name.startswith("compress")]
    left = [64 - math.floor(32 * (1 - (1 - number / 3) ** 3)) for number in (1, 2, 3)]
    steps = zip([64, *left], left, strict=False)
    assert notes == [[f"bert.encoder.layer.0: {before} -> {after} neurons"] for before, after in steps]
    assert left[-1] == 32
    assert [stage.train.epochs for stage in record.stages if stage.train and "recover" in stage.name] == [1, 1, 1]


def test_shared_layers_recover_and_stay_shared(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("compress=share", "compress.share.recover={epochs: 1, learning_rate: 1e-3}", "student=none")
    runs.run(runs.config(train, cache, *TORCH, *words), tmp_path / "run")
    model = load_model(tmp_path / "run" / "models" / "teacher+share", tiny.task()).model
    first, second = model.bert.encoder.layer
    assert first.output.dense.weight is second.output.dense.weight
    before = load_file(tmp_path / "run" / "models" / "teacher" / "model.safetensors")
    names = [f"bert.encoder.layer.{number}.output.dense.weight" for number in (0, 1)]
    mean = (before[names[0]] + before[names[1]]) / 2
    assert not torch.allclose(first.output.dense.weight, mean), "it has learned"


def test_zeros_are_smaller_when_zipped_and_nothing_else(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("compress=prune", "compress.prune.ratio=0.9", "runtime=onnxruntime")
    record = runs.run(runs.config(train, cache, *TORCH[1:], *words), tmp_path / "run")
    dense, sparse = record.variants[-2:]
    assert dense.artifact is not None
    assert sparse.artifact is not None
    assert sparse.artifact.bytes == pytest.approx(dense.artifact.bytes, rel=1e-3)
    assert sparse.artifact.gzip_bytes < 0.9 * dense.artifact.gzip_bytes
    assert dense.macs is not None
    assert dense.macs == sparse.macs
    assert sparse.parameters is not None
    assert sparse.parameters.nonzero < sparse.parameters.total


def test_a_teacher_recovers_by_its_own_answers(train: Path, cache: Path, tmp_path: Path) -> None:
    record = run(train, cache, tmp_path, RECOVER, "student=none")
    assert made(record) == [
        "teacher", "compress prune_heads *", "compress prune_ffn *", "answers of teacher", "recover prune_ffn *",
    ]  # fmt: skip
    assert record.variants[-1].name == "teacher+prune_heads+prune_ffn.torch"


def test_a_student_of_layers_recovers_by_answers_alone(train: Path, cache: Path, tmp_path: Path) -> None:
    record = run(train, cache, tmp_path, RECOVER, "loss.terms.hidden={name: hidden}")
    assert made(record)[3:] == [
        "compress prune_heads *", "compress prune_ffn *", "answers of teacher", "recover prune_ffn *",
    ]  # fmt: skip
    trained = next(stage.train for stage in record.stages if stage.name == "recover prune_ffn")
    assert trained is not None
    assert not any("hidden" in row for row in trained.history)


def test_texts_with_trimmed_pieces_are_told_apart(train: Path, cache: Path, tmp_path: Path) -> None:
    test = runs.write_csv(tmp_path / "test.csv", 60, seed=7)
    words = ("compress=vocabulary", "compress.vocabulary.coverage=0.95", f"dataset.files.test={test}")
    config = runs.config(train, cache, *TORCH, *words)
    record = runs.run(config, tmp_path / "run")
    teacher, before = record.variants[-1].comparisons
    for comparison in (teacher, before):
        groups = {group.group: group for group in comparison.groups if group.by == "cut into pieces"}
        assert set(groups) == {"as before", "otherwise"}
        assert sum(group.n for group in groups.values()) == 60
    same = next(group for group in before.groups if group.group == "as before")
    assert same.value == same.other, "answered exactly as before"


ALONE = """
import json, sys
import numpy as np

ids = np.arange(2, 12).reshape(2, 5)
feeds = [ids, np.zeros_like(ids), np.ones_like(ids)]
if sys.argv[1].endswith(".torch"):
    import torch

    module = torch.export.load(sys.argv[1] + "/forward.pt2").module()
    said = module(*map(torch.from_numpy, feeds))[0].detach().numpy()
else:
    import onnxruntime

    session = onnxruntime.InferenceSession(sys.argv[1] + "/forward.onnx")
    said = session.run(None, dict(zip([port.name for port in session.get_inputs()], feeds)))[0]
assert "kdc" not in sys.modules
print(json.dumps(said.tolist()))
"""


def test_a_cut_model_ships_without_kdc(train: Path, cache: Path, tmp_path: Path) -> None:
    run(train, cache, tmp_path, "runtime=[torch,onnxruntime]")
    said = []
    for runtime in ("torch", "onnxruntime"):
        artifact = tmp_path / "run" / "artifacts" / f"student+prune_heads+prune_ffn.{runtime}"
        command = [sys.executable, "-c", ALONE, str(artifact)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        said.append(torch.tensor(json.loads(ended.stdout.splitlines()[-1])))
    torch.testing.assert_close(said[0], said[1], rtol=1e-4, atol=1e-5)
    assert said[0].std() > 0


def test_a_model_learns_under_the_rounding_that_is_planned(train: Path, cache: Path, tmp_path: Path) -> None:
    """The same start, rows and seed: what differs between two runs is how coarse the planned weights are."""
    weights = {}
    for group in (16, 256):
        words = ("compress=int4_weights", f"compress.int4_weights.group={group}", "runtime=onnxruntime")
        recover = "compress.int4_weights.recover={epochs: 1, learning_rate: 1e-3}"
        config = runs.config(train, cache, *TORCH[1:], *words, recover)
        record = runs.run(config, tmp_path / str(group))
        assert made(record)[-2:] == ["compress int4_weights *", "recover int4_weights *"]
        assert record.variants[-1].precision == "int4_weights"
        folder = tmp_path / str(group) / "models"
        weights[group] = load_file(folder / "student+int4_weights" / "model.safetensors")
        before = load_file(folder / "student" / "model.safetensors")
        assert any(not torch.equal(tensor, before[name]) for name, tensor in weights[group].items())
    assert any(not torch.equal(tensor, weights[256][name]) for name, tensor in weights[16].items())


def test_accuracy_control_follows_a_quantizer(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("compress=[int8,accuracy_control]", "compress.accuracy_control.max_drop=0.9", "runtime=onnxruntime")
    record = runs.run(runs.config(train, cache, *TORCH[1:], *words), tmp_path / "run")
    stage = next(stage for stage in record.stages if stage.name == "compress accuracy_control")
    assert len(stage.notes) == 1
    assert stage.notes[0].startswith("accuracy in float ")
    assert record.variants[-1].precision == "int8"


def test_soups_are_made_of_checkpoints_by_their_content(train: Path, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "first" / "models" / "student"
    runs.run(runs.config(train, cache, *TORCH, "compress=none"), tmp_path / "first")
    shutil.copytree(other, tmp_path / "other")
    words = ("compress=merge", f"compress.merge.paths=[{tmp_path / 'other'}]", "compress.merge.method=uniform")
    record = runs.run(runs.config(train, cache, *TORCH, *words), tmp_path / "soup")
    assert made(record)[-1] == "compress merge *"
    same = load_file(tmp_path / "soup" / "models" / "student+merge" / "model.safetensors")
    for name, tensor in load_file(other / "model.safetensors").items():
        torch.testing.assert_close(same[name], tensor)
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in weights.items()},
        tmp_path / "other" / "model.safetensors",
        {"format": "pt"},
    )
    again = runs.run(runs.config(train, cache, *TORCH, *words), tmp_path / "again")
    assert made(again)[-1] == "compress merge *", "another content at the same place"


def test_a_cpu_without_a_dot_product_gets_seven_bits_and_the_report_says_why(
    train: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDC_CPU_FLAGS", "avx2")
    words = ("compress=int8", "runtime=onnxruntime")
    record = runs.run(runs.config(train, cache, *TORCH[1:], *words), tmp_path / "run")
    why = "weights in 7 bits (reduce_range): a CPU without an int8 dot product would saturate"
    assert record.environment.cpu.flags == machine.cpu().flags, "what it ran on"
    assert any(note.startswith(f"compress.int8: {why}") for note in record.notes)
    assert why in (tmp_path / "run" / "report.html").read_text()
    folders = (cache / "stages" / "compress").rglob("plan.json")
    plans = [json.loads(file.read_text())["modules"].values() for file in folders]
    assert any(plan and all(module["reduce_range"] or module["weights_only"] for module in plan) for plan in plans)
