"""Pruned weights stay pruned in training, to the bit, and everything else goes on learning."""

from __future__ import annotations

from pathlib import Path

import torch

from kdc.distill.loop import Lesson
from kdc.distill.terms.logits import HardLabels
from kdc.distill.trainer import train
from tests import tiny
from tests.distill.trainings import ROWS, VALIDATION, settings


def test_zeros_stay_zeros(tmp_path: Path) -> None:
    built = tiny.built_bert(ROWS)
    pruned = built.model.bert.encoder.layer[0].output.dense.weight
    dense = built.model.bert.encoder.layer[0].intermediate.dense.weight
    with torch.no_grad():
        pruned[::2, 1::3] = 0
    mask, before, whole = pruned == 0, pruned.clone(), dense.clone()
    lesson = Lesson(tiny.task(), ROWS, VALIDATION, "accuracy")
    train(
        built, lesson, {"hard": HardLabels(name="hard")}, settings(epochs=1, weight_decay=0.1),
        seed=0, scratch=tmp_path, progress=lambda *_: None, keeps_zeros=True,
    )  # fmt: skip
    assert torch.equal(pruned == 0, mask)
    assert not torch.equal(pruned[~mask], before[~mask])
    assert bool((dense != whole).all())
