"""Tiny trainings that the tests of this folder look at: what a model becomes, and which rows every step saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.data.examples import Examples
from kdc.distill.batches import Collator, Part
from kdc.distill.loop import Lesson
from kdc.distill.settings import TrainConfig
from kdc.distill.signals import Source
from kdc.distill.terms.base import Term
from kdc.distill.terms.logits import HardLabels
from kdc.distill.trainer import train
from kdc.models.build import Built
from kdc.record import Train
from kdc.tasks.base import Task
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


def without_dropout() -> Built:
    return tiny.built_bert(ROWS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def teacher_signals(terms: Iterable[Term]) -> tuple[str, ...]:
    """What these terms ask of a teacher, sorted."""
    return tuple(sorted({signal for term in terms for signal in term.asks_of_teacher}))


def says(logits: np.ndarray) -> Source:
    """A teacher with these answers, `[rows, classes]`."""
    return lambda rows: {"logits": torch.from_numpy(logits[list(rows)])}


def run(
    scratch: Path,
    config: TrainConfig | None = None,
    *,
    terms: Mapping[str, Term] = HARD,
    source: Source | None = None,
    task: Task | None = None,
    metric: str = "accuracy",
    rows: Examples = ROWS,
    validation: Examples = VALIDATION,
    kill_at: int | None = None,
    built: Built | None = None,
    **more: Any,
) -> tuple[Weights, Train]:
    """The weights of a trained student, with dropout unless `built` says otherwise, and the record of its training.

    It is killed at the end of step `kill_at`, before anything of that step is logged or saved.
    """
    built = built or tiny.built_bert(ROWS, hidden_dropout_prob=0.2)
    others = {key: more.pop(key) for key in ("outlines", "peers") if key in more}
    lesson = Lesson(task or tiny.task(), rows, validation, metric, source, **others)

    def progress(done: int, total: int, detail: str) -> None:
        if done == kill_at:
            raise KilledError

    scratch.mkdir(parents=True, exist_ok=True)
    record = train(built, lesson, terms, config or settings(), seed=0, scratch=scratch, progress=progress, **more)
    return {name: tensor.clone() for name, tensor in built.model.state_dict().items()}, record


def differ(one: Weights, other: Weights) -> list[str]:
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


def distance(one: Weights, other: Weights) -> float:
    """The largest difference between any two weights, but for the biases of attention keys.

    They shift all scores of a query alike, so their gradient is rounding noise alone, which Adam scales up.
    """
    compared = [name for name in one if not name.endswith("key.bias")]
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in compared)


@pytest.fixture
def parts_seen(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """The parts of batches that trainings took, in order, as they take them."""
    seen: list[Part] = []
    collate = Collator.__call__

    def spy(self: Collator, part: Part) -> dict[str, Any]:
        seen.append(part)
        return collate(self, part)

    monkeypatch.setattr(Collator, "__call__", spy)
    return seen
