"""The training loop: it learns, keeps the best validation, logs its terms, and every setting does what it says."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from kdc.config import compose, to_run_config
from kdc.data.examples import Examples
from kdc.distill import loop, trainer
from kdc.distill.batches import Part
from kdc.distill.loop import Lesson, precision_used
from kdc.distill.terms.base import Term
from kdc.distill.terms.logits import ForwardKL, HardLabels
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.models.build import Built
from kdc.tasks.text_classification import TextClassification
from tests import tiny
from tests.distill.trainings import (
    HARD,
    ROWS,
    STEPS_PER_EPOCH,
    VALIDATION,
    KilledError,
    Weights,
    differ,
    distance,
    parts_seen,
    run,
    says,
    settings,
    without_dropout,
)

__all__ = ["parts_seen"]

KL: dict[str, Term] = {"kl": ForwardKL(name="kl")}


def fresh() -> Built:
    """A student as an initialization leaves it, ready to learn."""
    built = tiny.built_bert(ROWS)
    return replace(built, model=type(built.model)(built.model.config))


def guesses() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)


def test_training_learns_and_says_what_it_did(tmp_path: Path) -> None:
    built = fresh()
    _, record = run(tmp_path, settings(epochs=8, learning_rate=5e-3), built=built)
    assert not built.model.training
    losses = [row["loss"] for row in record.history if "loss" in row]
    scores = [row["eval_accuracy"] for row in record.history if "eval_accuracy" in row]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert max(scores) >= 0.9
    assert (record.epochs, record.steps) == (8, 8 * STEPS_PER_EPOCH)
    assert len(scores) == 8
    assert record.samples_per_second > 0


def test_terms_are_logged_raw_and_weighted(tmp_path: Path) -> None:
    terms: dict[str, Term] = {
        "kl": ForwardKL(name="kl", weight=0.7, temperature=4), "hard": HardLabels(name="hard", weight=0.3)
    }  # fmt: skip
    _, record = run(tmp_path, terms=terms, source=says(guesses()))
    rows = [row for row in record.history if "kl" in row]
    assert len(rows) == 3 * STEPS_PER_EPOCH
    for row in rows:
        assert row["kl_weighted"] == pytest.approx(0.7 * row["kl"])
        assert row["hard_weighted"] == pytest.approx(0.3 * row["hard"])
        assert row["loss"] == pytest.approx(row["kl_weighted"] + row["hard_weighted"], abs=1e-3)


def test_the_teachers_logits_stay_with_their_rows(tmp_path: Path) -> None:
    """Distilled from a teacher that is always right, without any label, the student learns the labels."""
    right = (8 * np.eye(2, dtype=np.float32))[ROWS["label"]]
    wrong_labels = Examples({**ROWS.columns, "label": 1 - ROWS["label"]}, ROWS.labels)
    config = settings(epochs=8, learning_rate=5e-3)
    _, record = run(tmp_path, config, terms=KL, source=says(right), rows=wrong_labels, built=fresh())
    assert max(row.get("eval_accuracy", 0.0) for row in record.history) >= 0.9


def test_rows_without_answers_can_be_distilled(tmp_path: Path) -> None:
    unlabelled = Examples({"text": ROWS["text"]}, ROWS.labels)
    _, record = run(tmp_path, settings(epochs=1), terms=KL, source=says(guesses()), rows=unlabelled)
    assert record.steps == STEPS_PER_EPOCH


def test_the_rows_of_validation_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, seen = tiny.built_bert(ROWS), []
    encode = type(built.encoder).encode
    monkeypatch.setattr(
        type(built.encoder), "encode", lambda self, rows: (seen.append(len(rows)), encode(self, rows))[1]
    )
    run(tmp_path, built=built)
    assert seen.count(len(VALIDATION)) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_diverges_says_so_at_once(tmp_path: Path, precision: str) -> None:
    teacher = says(np.full((40, 2), np.nan, dtype=np.float32))
    terms: dict[str, Term] = {"hard": HARD["hard"], **KL}
    with pytest.raises(KdcError, match=r"training diverged: kl is nan at step 1; lower train\.learning_rate") as caught:
        run(tmp_path, settings(precision=precision), terms=terms, source=teacher)
    assert caught.value.exit_code == 1


class Scripted(TextClassification):
    """A task whose validation says what the test wants, and keeps count."""

    metrics: ClassVar[Mapping[str, bool]] = {"accuracy": True, "error": False}

    def __init__(self, metric: str, scores: list[float]) -> None:
        self.metric, self.scores, self.seen = metric, iter(scores), 0

    def score(self, outputs: Arrays, examples: Examples) -> dict[str, float]:
        self.seen += 1
        return {self.metric: next(self.scores)}


@pytest.mark.parametrize(
    ("metric", "scores", "best"),
    [("accuracy", [0.5, 0.9, 0.2], 2), ("error", [0.5, 0.2, 0.9], 2), ("accuracy", [0.9, 0.5, 0.6], 1)],
)
def test_the_best_validations_weights_are_kept(tmp_path: Path, metric: str, scores: list[float], best: int) -> None:
    built = tiny.built_bert(ROWS)
    after: dict[int, Weights] = {}

    class Remembers(Scripted):
        def score(self, outputs: Arrays, examples: Examples) -> dict[str, float]:
            result = super().score(outputs, examples)
            after[self.seen] = {name: tensor.cpu().clone() for name, tensor in built.model.state_dict().items()}
            return result

    weights, _ = run(tmp_path, task=Remembers(metric, scores), metric=metric, built=built)
    assert list(after) == [1, 2, 3]
    assert not differ(weights, after[best])
    assert all(differ(weights, after[other]) for other in after if other != best)


def test_every_epoch_has_all_rows_in_batches_of_its_own(tmp_path: Path, parts_seen: list[Part]) -> None:
    run(tmp_path, settings(epochs=2))
    first, second = parts_seen[:STEPS_PER_EPOCH], parts_seen[STEPS_PER_EPOCH:]
    assert first != second
    for epoch in (first, second):
        assert sorted(row for part in epoch for row in part.rows) == list(range(40))


def test_a_last_part_of_an_epoch_is_validated_too(tmp_path: Path) -> None:
    task = Scripted("accuracy", [0.1, 0.2, 0.3])
    _, record = run(tmp_path, settings(epochs=1.6), task=task)
    assert record.steps == 8
    assert task.seen == 2


# Every setting does something


CHANGES: list[dict[str, Any]] = [
    {"epochs": 2}, {"batch_size": 10}, {"learning_rate": 2e-3}, {"weight_decay": 0.5}, {"warmup_ratio": 0.5},
    {"schedule": "cosine"}, {"schedule": "constant"}, {"max_grad_norm": 1e-3}, {"precision": "bf16"},
]  # fmt: skip


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return run(tmp_path_factory.mktemp("usual"), task=Scripted("accuracy", [0.1, 0.2, 0.3]))[0]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()))
def test_every_setting_changes_the_weights(tmp_path: Path, usual: Weights, changes: dict[str, Any]) -> None:
    weights, _ = run(tmp_path, settings(**changes), task=Scripted("accuracy", [0.1, 0.2, 0.3]))
    assert differ(weights, usual)


def test_the_same_settings_make_the_same_weights(tmp_path: Path, usual: Weights) -> None:
    assert not differ(run(tmp_path, task=Scripted("accuracy", [0.1, 0.2, 0.3]))[0], usual)


def test_every_term_setting_changes_the_weights(tmp_path: Path) -> None:
    found = []
    for i, change in enumerate(({}, {"temperature": 8.0}, {"weight": 0.2})):
        terms: dict[str, Term] = {"kl": ForwardKL(name="kl", **change), "hard": HardLabels(name="hard")}
        found.append(run(tmp_path / str(i), settings(epochs=1), terms=terms, source=says(guesses()))[0])
    assert differ(found[0], found[1])
    assert differ(found[0], found[2])


def test_evaluations_are_as_many_an_epoch(tmp_path: Path) -> None:
    task = Scripted("accuracy", [0.1] * 20)
    run(tmp_path, settings(epochs=2, batch_size=5, evaluations=4), task=task)
    assert task.seen == 8


def test_auto_precision_is_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("kdc.distill.loop.has_bf16", lambda has=has: has)
        assert precision_used(settings(precision="auto")) == wanted
        assert precision_used(settings(precision="fp32")) == "fp32"
        assert precision_used(settings(precision="bf16")) == "bf16"


def test_pictures_train_too(tmp_path: Path) -> None:
    rows = tiny.pictures(24, classes=3)
    images = np.zeros_like(rows["image"])
    images[np.arange(24), rows["label"] * 2] = 255  # a bright line whose place is the label
    rows = Examples({"image": images, "label": rows["label"]}, rows.labels)
    built = tiny.built_net(rows, "mlp")
    _, record = run(
        tmp_path, settings(epochs=10, learning_rate=1e-2), built=built, task=tiny.task("image-classification"),
        rows=rows, validation=rows,
    )  # fmt: skip
    assert record.history[-2].get("eval_accuracy", record.history[-1].get("eval_accuracy")) == 1.0


# What changes how it is computed, and not what comes out


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, list[dict[str, float]]]:
    """A training without dropout, each batch in one go."""
    return alike(tmp_path_factory.mktemp("plain"))


def alike(folder: Path, *, built: Built | None = None, **changes: Any) -> tuple[Weights, list[dict[str, float]]]:
    terms = {**KL, "hard": HardLabels(name="hard", weight=0.5)}
    built = built or without_dropout()
    weights, record = run(folder, settings(**changes), terms=terms, source=says(guesses()), built=built)
    return weights, record.history


def assert_alike(one: tuple[Weights, list[dict[str, float]]], other: tuple[Weights, list[dict[str, float]]]) -> None:
    assert len(one[1]) == len(other[1])
    for row, wanted in zip(one[1], other[1], strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert distance(one[0], other[0]) < 1e-5


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_teaches_what_it_teaches_at_once(
    parts: int, at_once: Any, parts_seen: list[Part], tmp_path: Path
) -> None:
    assert_alike(alike(tmp_path, accumulate=parts), at_once)
    assert len(parts_seen) == parts * 3 * STEPS_PER_EPOCH
    assert {len(part.rows) for part in parts_seen} == {2: {4}, 3: {2, 3}, 8: {1}}[parts]


def test_activations_that_are_computed_again_are_the_same(at_once: Any, tmp_path: Path) -> None:
    calls: list[int] = []
    for again in (False, True):
        built, seen = without_dropout(), []
        for layer in built.model.bert.encoder.layer:  # the last one computes its first token alone
            query = layer.attention.self.query
            query.register_forward_hook(lambda module, *rest, seen=seen: seen.append(1) if module.training else None)
        assert_alike(alike(tmp_path / str(again), built=built, gradient_checkpointing=again), at_once)
        calls.append(len(seen))
    assert calls == [2 * 3 * STEPS_PER_EPOCH, 2 * 2 * 3 * STEPS_PER_EPOCH]


def test_a_net_that_cannot_compute_activations_again_is_refused(tmp_path: Path) -> None:
    rows = tiny.pictures(8)
    with pytest.raises(KdcError, match=r"^train\.gradient_checkpointing: MLP cannot do it; leave it false$"):
        run(
            tmp_path, settings(gradient_checkpointing=True), built=tiny.built_net(rows, "mlp"), rows=rows,
            validation=rows, task=tiny.task("image-classification"),
        )  # fmt: skip
    words = ["teacher=mlp", "student=mlp_small", "dataset=digits", "train.gradient_checkpointing=true"]
    with pytest.raises(KdcError) as caught:
        to_run_config(compose(words))
    assert str(caught.value).splitlines()[1:] == [
        f"  train.gradient_checkpointing: the {role} cannot do it; set it to false"
        for role in ("teacher mlp", "student mlp_small")
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    rows, found = tiny.pictures(36), []
    for compiled in (False, True):
        built = tiny.built_net(rows, "mlp")
        weights, record = run(
            tmp_path / str(compiled), settings(epochs=2, compile=compiled), built=built, rows=rows, validation=rows,
            task=tiny.task("image-classification"), audit_at=(0.0, 0.5),
        )  # fmt: skip
        assert (built.model._compiled_call_impl is not None) == compiled
        found.append((weights, record.history))
        assert len(record.audit) == 2
    assert_alike(found[0], found[1])


# Early stopping, steps and speed


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    for patience, steps in ((1, 2), (2, 3), (3, 7), (None, 10)):
        task = Scripted("accuracy", [0.5, 0.4, 0.5, 0.6, 0.6, 0.5, 0.6, 0.1, 0.1, 0.1])
        config = settings(epochs=2, evaluations=5, patience=patience)
        record = run(tmp_path / str(patience), config, task=task)[1]
        assert record.steps == task.seen == steps
        assert record.epochs == steps / STEPS_PER_EPOCH


def test_samples_per_second_are_those_of_the_steps_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds for 15 steps of 8 rows, for three, and for the last one of a training that was killed."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert run(tmp_path / "whole")[1].samples_per_second == 12.0
    task = Scripted("accuracy", [0.5, 0.4, 0.4])
    assert run(tmp_path / "stopped", settings(evaluations=5, patience=2), task=task)[1].samples_per_second == 2.4
    with pytest.raises(KilledError):
        run(tmp_path / "killed", settings(checkpoint_seconds=1e-6), kill_at=15)
    next(clock)  # the killed one asked once
    assert run(tmp_path / "killed")[1].samples_per_second == 0.8


# What the loop is told for machines that are not this one


def told(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, bf16: bool = True, **changes: Any) -> Any:
    """What `transformers` would be told on a machine with so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(loop, "TrainingArguments", lambda **given: SimpleNamespace(n_gpu=gpus, _n_gpu=gpus, **given))
    lesson = Lesson(TextClassification(), ROWS, VALIDATION, "accuracy")
    return loop.arguments(settings(**changes), lesson, steps=10, epoch_steps=5, scratch=Path(), seed=3)


@pytest.mark.parametrize(
    ("asked", "bf16", "used"), [("fp16", True, "fp16"), ("auto", True, "bf16"), ("auto", False, "fp32")]
)
def test_precision_on_a_gpu(asked: str, bf16: bool, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = told(monkeypatch, gpus=1, bf16=bf16, precision=asked)
    assert (arguments.fp16, arguments.bf16) == (used == "fp16", used == "bf16")
    assert not arguments.use_cpu


def test_fp16_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        KdcError, match=r"^train\.precision=fp16 needs a GPU; take train\.precision=auto, which is bf16"
    ):
        told(monkeypatch, precision="fp16")


def test_one_process_trains_on_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, gpus=4)._n_gpu == 1


def test_every_process_has_random_numbers_of_its_own_and_the_first_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        found.append(told(monkeypatch, trackers=["tensorboard"]))
    assert [arguments.report_to for arguments in found] == [["tensorboard"], [], []]
    assert all(one.seed != other.seed for one, other in pairwise(found))
    assert {arguments.data_seed for arguments in found} == {3}
