"""Trainings that two processes must do as one does: `python -m tests.distill.together FOLDER` under torchrun.

Every case is trained from end to end; rank 0 saves what came of it, `{case: (weights, record)}`. The last one is killed
in the middle of its second epoch on both processes and goes on, with dropout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kdc import distributed
from kdc.distill.signals import OnlineSignals, wanted_signals
from kdc.distill.terms.base import TERMS, Term
from kdc.models.build import Built
from kdc.models.taps import Outline, outline
from kdc.record import Train
from tests import tiny
from tests.distill.trainings import ROWS, KilledError, Weights, run, settings, teacher_signals, without_dropout

BATCH_SIZE = 13
"""Of 40 rows: three batches that cannot be halved, and one of a single row."""
KILLED = "killed"
CASES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "rows": ({}, {"kl": {"temperature": 3}, "hard": {"weight": 0.5}}),
    "rows compared": (
        # of two classes only DIST's gamma teaches: beta's part is constant, its gradient rounding errors alone
        {"epochs": 2},
        {"similarity": {"weight": 5}, "rkd_distance": {}, "dist": {"beta": 0}, "crd": {"same_label": True}},
    ),
    "in parts": ({"epochs": 2, "accumulate": 2, "gradient_checkpointing": True}, {"kl": {}, "hidden": {"weight": 0.1}}),
}  # fmt: skip


def train(case: str, folder: Path, **more: Any) -> tuple[Weights, Train]:
    changes, chosen = CASES[case]
    terms: dict[str, Term] = {name: TERMS[name](name=name, **keys) for name, keys in chosen.items()}
    student, teacher = without_dropout(), tiny.built_bert(ROWS, seed=9)
    outlines = tuple(_outline(one, terms) for one in (student, teacher))
    source = OnlineSignals(teacher, teacher.encoder.encode(ROWS), wanted_signals(terms.values(), *outlines))
    return run(
        folder / case.replace(" ", "-"), settings(batch_size=BATCH_SIZE, **changes), terms=terms, source=source,
        outlines=outlines, audit_at=(0.0, 0.5), **{"built": student, **more},
    )  # fmt: skip


def _outline(one: Built, terms: dict[str, Term]) -> Outline:
    names = {*teacher_signals(terms.values()), *(signal for term in terms.values() for signal in term.reads)}
    return outline(one.model, names, name="it", vocabulary="words")


def dropped_out() -> Iterator[Built]:
    while True:
        yield tiny.built_bert(ROWS, hidden_dropout_prob=0.2)


def main(folder: Path) -> None:
    distributed.start()
    found = {case: train(case, folder) for case in CASES}
    students = dropped_out()
    found["whole"] = train("rows", folder / "whole", built=next(students))
    try:
        train("rows", folder / KILLED, built=next(students), kill_at=7)
    except KilledError:
        found[KILLED] = train("rows", folder / KILLED, built=next(students))
    if distributed.rank() == 0:
        torch.save(
            {case: (weights, record.model_dump()) for case, (weights, record) in found.items()}, folder / "found.pt"
        )
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
