"""Who learns from whom: every arrangement runs to its end on small files, and stands in the record."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.errors import KdcError
from kdc.record import RunRecord
from tests import runs, tiny

TORCH = ("runtime=torch", "compress=none", "bench.rows=0")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_csv(tmp_path_factory.mktemp("data") / "train.csv", 80)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: the teacher is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)


def run(train: Path, cache: Path, folder: Path, *words: str) -> RunRecord:
    return runs.run(runs.config(train, cache, *TORCH, *words), folder / "run")


def stages(record: RunRecord) -> list[str]:
    return [stage.name for stage in record.stages if not stage.name.startswith(("export", "predict"))]


def parents(record: RunRecord) -> dict[str, list[str]]:
    return {variant.stage: variant.parents for variant in record.variants}


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "run" / "models" / name / "model.safetensors")


def test_an_assistant_stands_between_teacher_and_student(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("+student@distill.assistants.middle=layers", "distill.assistants.middle.layers=2", "student.layers=1")
    record = run(train, cache, tmp_path, *words)
    assert stages(record) == ["data", "teacher", "signals", "middle", "signals middle", "student", "latency"]
    assert parents(record) == {"teacher": [], "middle": ["teacher"], "student": ["middle"]}
    alone = run(train, cache, tmp_path / "alone", "student.layers=1")
    [one, other] = [next(s.key for s in r.stages if s.name == "student") for r in (record, alone)]
    assert one != other


def test_several_teachers_speak_as_one(train: Path, cache: Path, tmp_path: Path) -> None:
    second = ("+teacher@distill.teachers.second=bert_tiny", *(
        word.replace("teacher.", "distill.teachers.second.") for word in runs.TEACHER
    ))  # fmt: skip
    record = run(train, cache, tmp_path, *second, "distill.combine=agreement")
    assert stages(record) == ["data", "teacher", "second", "signals", "signals second", "student", "latency"]
    assert parents(record) == {"teacher": [], "second": [], "student": ["teacher", "second"]}
    one, other = weights(tmp_path, "teacher"), weights(tmp_path, "second")
    assert any(not torch.equal(one[name], other[name]) for name in one), "equal settings, yet another teacher"


def test_students_learn_from_one_another(train: Path, cache: Path, tmp_path: Path) -> None:
    peer = ("+student@distill.peers.peer=layers", "distill.peers.peer.layers=2")
    record = run(train, cache, tmp_path, *peer)
    assert stages(record) == ["data", "teacher", "student", "peer", "latency"]
    assert parents(record) == {"teacher": [], "peer": [], "student": []}
    training = next(stage.train for stage in record.stages if stage.name == "student")
    assert training is not None
    logged = next(row for row in training.history if "loss" in row)
    assert {"kl", "hard", "peer/kl", "peer/hard"} <= set(logged)
    assert logged["loss"] == pytest.approx(
        sum(logged[f"{who}{term}_weighted"] for who in ("", "peer/") for term in ("kl", "hard")), rel=1e-5
    )


def test_a_student_teaches_its_next_generation(train: Path, cache: Path, tmp_path: Path) -> None:
    record = run(train, cache, tmp_path, "distill.generations=3")
    learned = ["teacher", "generation1", "generation2", "student"]
    assert [name for name in stages(record) if not name.startswith(("data", "signals", "latency"))] == learned
    assert parents(record) == {name: [before] for before, name in itertools.pairwise(learned)} | {"teacher": []}
    assert len({stage.key for stage in record.stages if stage.name in learned}) == 4


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_cached_and_online_teachers_make_the_same_student(train: Path, cache: Path, tmp_path: Path, mode: str) -> None:
    """Up to rounding: rows are padded otherwise where signals are computed once."""
    found = {}
    for signals in ("cached", "online"):
        folder = tmp_path / signals
        record = run(
            train, cache, folder, "loss=tinybert", f"distill.signals={signals}", "train.precision=fp32",
            "train.learning_rate=1e-4",
        )  # fmt: skip
        assert ("signals" in stages(record)) == (signals == "cached")
        found[signals] = weights(folder, "student")
    for name, tensor in found["cached"].items():
        torch.testing.assert_close(tensor, found["online"][name], atol=2e-4, rtol=1e-3, msg=name)


def test_unlabelled_rows_silence_the_hard_labels(
    train: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("\n".join(tiny.sentences(50, seed=9)["text"]) + "\n")
    record = run(train, cache, tmp_path, f"dataset.unlabelled={more}")
    assert stages(record) == ["data", "teacher", "transfer set", "signals", "student", "latency"]
    training = next(stage.train for stage in record.stages if stage.name == "student")
    assert training is not None
    logged = next(row for row in training.history if "loss" in row)
    assert "kl" in logged
    assert "hard" not in logged
    assert "loss.terms.hard is off: the rows of dataset.unlabelled have no labels" in capsys.readouterr().err


def test_augmented_rows_have_the_teachers_answers_beside_the_labels(train: Path, cache: Path, tmp_path: Path) -> None:
    record = run(train, cache, tmp_path, "dataset.augment={copies: 2, mask: 0.3}", "train.epochs=1")
    made = next(stage for stage in record.stages if stage.name == "transfer set")
    assert any("new rows made of" in note for note in made.notes)
    training = next(stage.train for stage in record.stages if stage.name == "student")
    assert training is not None
    assert training.steps > 64 / 16, "more rows than those of train"
    assert {"kl", "hard"} <= next(row for row in training.history if "loss" in row).keys()


def test_controls_say_what_the_teacher_was_worth(train: Path, cache: Path, tmp_path: Path) -> None:
    record = run(train, cache, tmp_path, "seeds=2", "control=true", "train.epochs=1")
    student = record.variant("student.torch")
    assert [one.seed for one in student.replicates] == [0, 1]
    assert student.quality is not None
    assert student.replicates[0].metrics["accuracy"] == student.quality.metrics["accuracy"].value
    assert [control.name for control in record.controls] == ["hard labels", "from scratch"]
    for control in record.controls:
        assert [one.seed for one in control.replicates] == [0, 1]
        scores = [np.mean([one.metrics["accuracy"] for one in arm]) for arm in (student.replicates, control.replicates)]
        assert control.gains["accuracy"].value == pytest.approx(scores[0] - scores[1])
        assert control.parameters is not None
        assert student.parameters is not None
        assert control.parameters.total == student.parameters.total
    assert len(record.gain_verdict) == 2
    assert (tmp_path / "run" / "report.html").read_text().count("What the teacher was worth") >= 1


def test_a_student_from_scratch_has_one_control(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("student=bert_micro", "student.architecture.hidden_size=32", "student.architecture.intermediate_size=64")
    record = run(train, cache, tmp_path, *words, "control=true", "train.epochs=1")
    assert [control.name for control in record.controls] == ["from scratch"]


# What cannot be is refused before anything is trained


WRONG: list[tuple[tuple[str, ...], str]] = [
    (
        ("dataset=digits", "teacher=cnn", "student=cnn_small", "loss.terms.attention={name: attention}"),
        "loss.terms.attention: attention reads attentions, which the student does not have",
    ),
    (
        ("loss.terms.hidden={name: hidden, layer_map: [[0, 7]]}",),
        "loss.terms.hidden: layer_map: [0, 7] is out of range",
    ),
    (
        ("loss.terms.value_relation={name: value_relation, relation_heads: 7}",),
        "loss.terms.value_relation: relation_heads: 7",
    ),
    (
        ("+teacher@distill.teachers.second=bert_tiny", "loss.terms.hidden={name: hidden}"),
        "several teachers share their logits only",
    ),
    (
        ("student=bilstm", "loss.terms.hidden={name: hidden}"),
        "compares token by token, but the student and the teacher have different tokenizers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: value[-1] if isinstance(value, tuple) else "")
def test_what_models_cannot_give_is_refused_before_training(
    words: tuple[str, ...], message: str, train: Path, tmp_path: Path
) -> None:
    pictures = words[0] == "dataset=digits"
    config = (
        runs.to_run_config(runs.compose([*words, f"cache_dir={tmp_path}/cache", *TORCH]))
        if pictures
        else runs.config(train, tmp_path / "cache", *TORCH, *words)
    )
    with pytest.raises(KdcError) as error:
        runs.run(config, tmp_path / "run")
    assert message in str(error.value)
    record = RunRecord.load(tmp_path / "run")
    assert (record.run.status, record.run.failed_stage) == ("failed", "teacher")
    assert not list((tmp_path / "cache").glob("stages/teacher/*"))


def test_all_problems_of_a_loss_are_told_at_once(train: Path, tmp_path: Path) -> None:
    words = (
        "loss.terms.hidden={name: hidden, layer_map: [[0, 7]]}",
        "loss.terms.value_relation={name: value_relation, relation_heads: 7}",
    )
    with pytest.raises(KdcError, match="2 problems with the loss") as error:
        runs.run(runs.config(train, tmp_path / "cache", *TORCH, *words), tmp_path / "run")
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["loss.terms.hidden", "loss.terms.value_relation"]


CHECKED: list[tuple[tuple[str, ...], str]] = [
    (("+student@distill.peers.a=layers", "distill.generations=2"), "distill.peers: students that learn from one"),
    (("+student@distill.assistants.student=layers",), "distill: 'student' cannot name a model"),
    (("distill.teacher_weights={techer: 2}",), "distill.teacher_weights.techer: no teacher is called so; did you mean"),
    (("student=none", "+student@distill.peers.a=layers"), "distill: student=none learns nothing"),
    (("dataset.augment={replace: 0.3}",), "dataset.augment.replace: a teacher from scratch has no masked-LM head"),
    (("distill.combine=confidence",), "distill.combine, distill.teacher_weights: there is one teacher; add more"),
    (("distill.top_k=2", "distill.signals=online"), "distill.top_k: what is asked batch by batch is not cached"),
    (("+student@distill.assistants.generation1=layers",), "distill: 'generation1' cannot name a model"),
    (("train.accumulate=2", "loss=rkd"), "rkd_distance compares rows, which parts keep apart; set train.accumulate=1"),
    (("distill.signals=sometimes",), "distill.signals"),
    (("distill.audit=[1.5]",), "distill.audit"),
    (("distill.cache_gb=0",), "distill.cache_gb"),
    (("distill.top_k=0",), "distill.top_k"),
    (("distill.generations=0",), "distill.generations"),
    (("+teacher@distill.teachers.second=mlp",), "reads images"),
    (("seeds=0",), "seeds"),
    (("student=none", "control=true"), "distill: student=none learns nothing"),
    (("student=none", "dataset.augment={mask: 0.1}"), "dataset: a transfer set is for a student"),
    (
        ("+student@distill.assistants.middle=layers", "distill.assistants.middle.layers=5"),
        "distill.assistants.middle.layers: 5 reaches beyond the teacher, which has 2 layers",
    ),
    (
        ("+student@distill.assistants.middle=layers", "distill.assistants.middle.layers=1", "student.layers=2"),
        "student.layers: 2 reaches beyond the assistant before it, which has 1 layers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), CHECKED, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_arrangements_that_make_no_sense_are_refused_while_typing(
    words: tuple[str, ...], message: Any, train: Path, tmp_path: Path
) -> None:
    with pytest.raises(KdcError) as error:
        runs.config(train, tmp_path, *words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset.unlabelled=nowhere.txt",), "nowhere.txt"),
        (
            (
                "student=bert_micro", "student.architecture.max_position_embeddings=16", "student.vocab_size=null",
                "loss.terms.hidden={name: hidden}",
            ),
            "loss.terms.hidden: hidden compares token by token, but the student takes 16 and the teacher 128; set",
        ),
        (
            ("compress=[svd,int8]", "compress.int8.exclude=[clasifier]", "runtime=onnxruntime"),
            "compress.int8.exclude: 'clasifier' names none of the modules",
        ),
        (
            ("student=none", "compress=[share,int8]", "compress.int8.exclude=['*.layer.1.*']", "runtime=onnxruntime"),
            "bert.encoder.layer.1.attention.self.query and bert.encoder.layer.0.attention.self.query share their weig",
        ),
    ],
)  # fmt: skip
def test_it_is_known_before_anything_is_trained(
    words: tuple[str, ...], message: str, train: Path, tmp_path: Path
) -> None:
    with pytest.raises(KdcError) as caught:
        runs.run(runs.config(train, tmp_path / "cache", *TORCH, *words), tmp_path / "run")
    assert message in str(caught.value)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_control_is_validated_as_often_as_a_student_of_more_rows(train: Path, cache: Path, tmp_path: Path) -> None:
    words = ("dataset.augment={mask: 0.3, copies: 3}", "control=true", "train.epochs=2", "train.evaluations=2")
    record = run(train, cache, tmp_path, *words)
    trained = {stage.name: stage.train for stage in record.stages if stage.train}
    assert {"student", "control hard labels, seed 0", "control from scratch, seed 0"} < trained.keys()
    seen = {
        name: (one.steps, sum("eval_accuracy" in row for row in one.history))
        for name, one in trained.items()
        if name != "teacher"
    }
    assert len(set(seen.values())) == 1, seen
    assert seen["student"][1] == 4
