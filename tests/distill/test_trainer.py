"""The training loop: it learns, keeps the best validation, logs its terms, and goes on where it was killed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from kdc.data.examples import Examples
from kdc.distill.batches import Collator
from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import Term
from kdc.distill.terms.logits import ForwardKL, HardLabels
from kdc.distill.trainer import COMPLETE, Lesson, precision_used, train
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.models.build import Built
from kdc.record import Train
from kdc.tasks.text_classification import TextClassification
from tests import tiny

ROWS, VALIDATION = tiny.sentences(40), tiny.sentences(20, seed=1)
HARD: dict[str, Term] = {"hard": HardLabels(name="hard")}
STEPS_PER_EPOCH = 5

Weights = dict[str, torch.Tensor]


class KilledError(Exception):
    """Raised where a kill would strike."""


def settings(**changes: Any) -> TrainConfig:
    plain = {"name": "test", "epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"}
    return TrainConfig(**plain | changes)


def run(
    scratch: Path,
    config: TrainConfig | None = None,
    *,
    terms: Mapping[str, Term] = HARD,
    logits: np.ndarray | None = None,
    task: TextClassification | None = None,
    metric: str = "accuracy",
    rows: Examples = ROWS,
    kill_at: int | None = None,
    built: Built | None = None,
) -> tuple[Weights, Train]:
    built = built or tiny.built_bert(ROWS, hidden_dropout_prob=0.2)
    signals = {} if logits is None else {"logits": logits}
    lesson = Lesson(task or TextClassification(), rows, VALIDATION, metric, signals)

    def progress(done: int, total: int, detail: str) -> None:
        if done == kill_at:
            raise KilledError

    scratch.mkdir(exist_ok=True)
    record = train(built, lesson, terms, config or settings(), seed=0, scratch=scratch, progress=progress)
    return {name: tensor.clone() for name, tensor in built.model.state_dict().items()}, record


def fresh() -> Built:
    """A student as an initialization leaves it, ready to learn."""
    built = tiny.built_bert(ROWS)
    return replace(built, model=type(built.model)(built.model.config))


def differ(one: Weights, other: Weights) -> list[str]:
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


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
    teacher = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    terms: dict[str, Term] = {
        "kl": ForwardKL(name="kl", weight=0.7, temperature=4), "hard": HardLabels(name="hard", weight=0.3)
    }  # fmt: skip
    _, record = run(tmp_path, terms=terms, logits=teacher)
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
    terms: dict[str, Term] = {"kl": ForwardKL(name="kl")}
    config = settings(epochs=8, learning_rate=5e-3)
    _, record = run(tmp_path, config, terms=terms, logits=right, rows=wrong_labels, built=fresh())
    assert max(row.get("eval_accuracy", 0.0) for row in record.history) >= 0.9


def test_rows_without_answers_can_be_distilled(tmp_path: Path) -> None:
    unlabelled = Examples({"text": ROWS["text"]}, ROWS.labels)
    teacher = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    terms: dict[str, Term] = {"kl": ForwardKL(name="kl")}
    assert run(tmp_path, settings(epochs=1), terms=terms, logits=teacher, rows=unlabelled)[1].steps == STEPS_PER_EPOCH


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
    teacher = np.full((40, 2), np.nan, dtype=np.float32)
    terms: dict[str, Term] = {"hard": HARD["hard"], "kl": ForwardKL(name="kl")}
    with pytest.raises(KdcError, match=r"training diverged: kl is nan at step 1; lower train\.learning_rate") as caught:
        run(tmp_path, settings(precision=precision), terms=terms, logits=teacher)
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
            after[self.seen] = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
            return result

    weights, _ = run(tmp_path, task=Remembers(metric, scores), metric=metric, built=built)
    assert list(after) == [1, 2, 3]
    assert not differ(weights, after[best])
    assert all(differ(weights, after[other]) for other in after if other != best)


def test_every_epoch_has_all_rows_in_batches_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[int]] = []
    original = Collator.__call__

    def spy(self: Collator, rows: list[int]) -> dict[str, Any]:
        batches.append(rows)
        return original(self, rows)

    monkeypatch.setattr(Collator, "__call__", spy)
    run(tmp_path, settings(epochs=2))
    first, second = batches[:STEPS_PER_EPOCH], batches[STEPS_PER_EPOCH:]
    assert first != second
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(40))


def test_a_last_part_of_an_epoch_is_validated_too(tmp_path: Path) -> None:
    task = Scripted("accuracy", [0.1, 0.2, 0.3])
    _, record = run(tmp_path, settings(epochs=1.6), task=task)
    assert record.steps == 8
    assert task.seen == 2


# Killed and resumed


@pytest.mark.parametrize("kill_at", [1, 3, 5, 6, 12, 15])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    """Bit for bit, with dropout on: same batches, same random numbers, same optimizer, same best validation."""
    config = settings(checkpoint_seconds=1e-6)
    whole, record = run(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        run(tmp_path / "cut", config, kill_at=kill_at)
    seen: list[int] = []
    resumed, again = run(tmp_path / "cut", config, built=Watched.bert(seen))
    assert not differ(resumed, whole)
    assert len(seen) == 15 - (kill_at - 1), "only what was lost is computed again"
    curves = [[row["eval_accuracy"] for row in r.history if "eval_accuracy" in row] for r in (record, again)]
    assert curves[0] == curves[1]
    assert again.steps == record.steps == 15


class Watched:
    @staticmethod
    def bert(seen: list[int]) -> Built:
        """The usual student, whose training forwards are counted."""
        built = tiny.built_bert(ROWS, hidden_dropout_prob=0.2)
        built.model.register_forward_hook(lambda module, *rest: seen.append(1) if module.training else None)
        return built


def test_dropout_really_is_on(tmp_path: Path) -> None:
    with_dropout, _ = run(tmp_path / "a")
    without, _ = run(
        tmp_path / "b", built=tiny.built_bert(ROWS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )
    assert differ(with_dropout, without)


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    config = settings(checkpoint_seconds=1e-6)
    whole, _ = run(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        run(tmp_path / "cut", config, kill_at=9)
    folders = sorted(tmp_path.glob("cut/checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    assert folders[-1].name == "checkpoint-8"
    assert all((folder / COMPLETE).exists() for folder in folders)
    (folders[-1] / COMPLETE).unlink()
    (folders[-1] / "model.safetensors").write_bytes(b"half")
    resumed, _ = run(tmp_path / "cut", config)
    assert not differ(resumed, whole)


def test_killed_while_an_old_checkpoint_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer would take what is left of one, without a word, for a checkpoint that has no optimizer."""
    config = settings(checkpoint_seconds=1e-6)
    whole, _ = run(tmp_path / "whole", config)

    def half(folder: Path, *rest: Any, **more: Any) -> None:
        if not Path(folder).name.startswith("checkpoint-"):
            return rmtree(folder, *rest, **more)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name).unlink()
        raise KilledError

    rmtree = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KilledError):
            run(tmp_path / "cut", config)
    resumed, record = run(tmp_path / "cut", config)
    assert record.resumed_at == 2
    assert not differ(resumed, whole)


def test_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    run(tmp_path / "all", settings(checkpoint_seconds=1e-6))
    assert len(list((tmp_path / "all").glob("checkpoint-*"))) <= 2


def test_a_finished_training_that_was_not_published_is_not_trained_again(tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    seen: list[int] = []
    again, record = run(tmp_path, built=Watched.bert(seen))
    assert not differ(again, whole)
    assert not seen
    assert record.steps == 15


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
    logits = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    found = []
    for i, change in enumerate(({}, {"temperature": 8.0}, {"weight": 0.2})):
        terms: dict[str, Term] = {"kl": ForwardKL(name="kl", **change), "hard": HardLabels(name="hard")}
        found.append(run(tmp_path / str(i), settings(epochs=1), terms=terms, logits=logits)[0])
    assert differ(found[0], found[1])
    assert differ(found[0], found[2])


def test_evaluations_are_as_many_an_epoch(tmp_path: Path) -> None:
    task = Scripted("accuracy", [0.1] * 20)
    run(tmp_path, settings(epochs=2, batch_size=5, evaluations=4), task=task)
    assert task.seen == 8


def test_checkpoints_are_written_by_the_clock(tmp_path: Path) -> None:
    for seconds, wanted in ((1e-6, {"checkpoint-4"}), (1e6, set())):
        with pytest.raises(KilledError):
            run(tmp_path / str(seconds), settings(checkpoint_seconds=seconds), kill_at=5)
        found = {folder.name for folder in tmp_path.glob(f"{seconds}/checkpoint-*")}
        assert wanted <= found if wanted else not found


def test_auto_precision_is_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("kdc.distill.trainer.has_bf16", lambda has=has: has)
        assert precision_used(settings(precision="auto")) == wanted
        assert precision_used(settings(precision="fp32")) == "fp32"
        assert precision_used(settings(precision="bf16")) == "bf16"


def test_pictures_train_too(tmp_path: Path) -> None:
    rows = tiny.pictures(24, classes=3)
    images = np.zeros_like(rows["image"])
    images[np.arange(24), rows["label"] * 2] = 255  # a bright line whose place is the label
    rows = Examples({"image": images, "label": rows["label"]}, rows.labels)
    built = tiny.built_net(rows, "mlp")
    lesson = Lesson(tiny.task("image-classification"), rows, rows, "accuracy")
    record = train(
        built, lesson, HARD, settings(epochs=10, learning_rate=1e-2), seed=0, scratch=tmp_path,
        progress=lambda done, total, detail: None,
    )  # fmt: skip
    assert record.history[-2].get("eval_accuracy", record.history[-1].get("eval_accuracy")) == 1.0
