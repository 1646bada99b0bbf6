"""The teacher's logits: computed once, found again by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdc.data.examples import Examples
from kdc.distill.signals import compute_signals, content_key, read_signals
from kdc.errors import KdcError
from kdc.export.base import Arrays, Callables
from kdc.tasks.text_classification import TextClassification
from tests import tiny

ROWS = tiny.sentences(30)


def test_the_key_depends_on_contents_alone() -> None:
    assert content_key(ROWS.select(range(29, -1, -1))) == content_key(ROWS)
    assert content_key(ROWS.select([*range(30), 3, 3])) == content_key(ROWS)
    relabelled = Examples({**ROWS.columns, "label": 1 - ROWS["label"]}, ROWS.labels)
    assert content_key(relabelled) == content_key(ROWS)
    assert content_key(ROWS.select(range(29))) != content_key(ROWS)
    changed = Examples({"text": [*ROWS["text"][:-1], "another film"], "label": ROWS["label"]}, ROWS.labels)
    assert content_key(changed) != content_key(ROWS)


def test_a_pair_is_not_its_texts_glued_together() -> None:
    one = Examples({"text": ["ab"], "text_pair": ["c"]})
    assert content_key(one) != content_key(Examples({"text": ["a"], "text_pair": ["bc"]}))


def test_logits_come_back_row_by_row_in_any_order(tmp_path: Path) -> None:
    teacher = tiny.built_bert(ROWS)
    doubled = ROWS.select([*range(30), 4, 4, 7])
    finished: list[int] = []
    compute_signals(teacher, tiny.task(), doubled, tmp_path, ["logits"], advance=finished.append)
    assert sum(finished) == len(set(ROWS["text"]))
    order = np.random.default_rng(1).permutation(len(doubled))
    shuffled = doubled.select(order)
    logits = read_signals(tmp_path, shuffled)["logits"]
    assert (logits.dtype, logits.shape) == (np.float32, (33, 2))
    for row, got in zip(teacher.encoder.encode(shuffled), logits, strict=True):
        with torch.no_grad():
            alone = teacher.model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0]
        np.testing.assert_allclose(got, alone.numpy(), atol=1e-4)


def test_another_teacher_says_something_else(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        compute_signals(
            tiny.built_bert(ROWS, seed=seed), tiny.task(), ROWS, tmp_path / name, ["logits"], advance=lambda rows: None
        )
    assert (
        np.abs(read_signals(tmp_path / "a", ROWS)["logits"] - read_signals(tmp_path / "b", ROWS)["logits"]).max() > 0.1
    )


@pytest.mark.parametrize("text", ["", "zzzz not there", "the film"])
def test_a_row_that_was_not_computed_is_an_error(tmp_path: Path, text: str) -> None:
    compute_signals(tiny.built_bert(ROWS), tiny.task(), ROWS, tmp_path, ["logits"], advance=lambda rows: None)
    with pytest.raises(LookupError, match="do not cover these rows"):
        read_signals(tmp_path, Examples({"text": [ROWS["text"][0], text]}))


def test_pictures_have_signals_too(tmp_path: Path) -> None:
    rows = tiny.pictures(12)
    built = tiny.built_net(rows, "cnn")
    compute_signals(built, tiny.task("image-classification"), rows, tmp_path, ["logits"], advance=lambda n: None)
    with torch.no_grad():
        wanted = built.model(pixel_values=torch.from_numpy(pixels(built, rows))).logits
    np.testing.assert_allclose(read_signals(tmp_path, rows)["logits"], wanted.numpy(), atol=1e-5)


def pixels(built: tiny.Built, rows: Examples) -> np.ndarray:
    return built.encoder.collate(built.encoder.encode(rows))["pixel_values"]


class Talkative(TextClassification):
    """Puts out how long each row is as well."""

    def predict(self, graphs: Callables, batch: Arrays) -> Arrays:
        return {**super().predict(graphs, batch), "length": batch["attention_mask"].sum(axis=1, keepdims=True)}


def test_signals_are_kept_by_name(tmp_path: Path) -> None:
    teacher = tiny.built_bert(ROWS)
    compute_signals(teacher, Talkative(), ROWS, tmp_path, ["length", "logits"], advance=lambda rows: None)
    said = read_signals(tmp_path, ROWS)
    assert set(said) == {"length", "logits"}
    lengths = [teacher.encoder.length(row) for row in teacher.encoder.encode(ROWS)]
    assert (said["length"].dtype, said["length"][:, 0].tolist()) == (np.float32, lengths)


def test_a_signal_that_the_teacher_does_not_have_is_refused_before_any_work(tmp_path: Path) -> None:
    teacher, names, seen = tiny.built_bert(ROWS), ["logits", "attentions"], []
    with pytest.raises(KdcError, match="the teacher has no attentions that could be cached, only logits"):
        compute_signals(teacher, tiny.task(), ROWS, tmp_path, names, advance=seen.append)
    assert not seen
    assert not list(tmp_path.iterdir())
