"""The vocabulary pass: covered texts have the same answers to the bit, the embedding has the rows of what is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdc.compress.base import ALL_ROWS
from kdc.compress.calibration import Calibration
from kdc.compress.plan import PrecisionPlan
from kdc.compress.vocabulary import Vocabulary, covering
from kdc.data.examples import Examples, unlabelled
from kdc.errors import KdcError
from kdc.models.build import Built, load_model, save_model
from kdc.models.shapes import differing
from kdc.stages import Data, Seen
from kdc.stages.base import Transfer
from kdc.tasks.text import TextEncoder
from tests import tiny
from tests.compress import models

FEW = Examples({"text": ["the film was good", "really bad music"], "label": models.ROWS["label"][:2]}, tiny.LABELS)


def trimmed(family: str, rows: Examples = FEW, **settings: float) -> tuple[Built, Built, list[str]]:
    """The model with all pieces, with fewer, and what was said."""
    whole, built = models.texts(family), models.texts(family)
    step = Vocabulary(name="vocabulary", **settings)
    assert step.rows_to_see > 10**9
    done = step.apply(built.model, PrecisionPlan(), Calibration(tiny.task(), built.encoder, rows))
    assert done.encoder is not None
    return whole, Built(done.model, done.encoder, new_head=False), done.lines


def logits(built: Built, rows: Examples) -> torch.Tensor:
    arrays = built.encoder.collate(built.encoder.encode(rows))
    with torch.no_grad():
        found: torch.Tensor = built.model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_covered_texts_have_the_same_answers(family: str, tmp_path: Path) -> None:
    whole, small, lines = trimmed(family)
    pieces = small.encoder.vocab_size  # type: ignore[attr-defined]
    before = whole.encoder.vocab_size  # type: ignore[attr-defined]
    assert pieces < before
    assert lines == [f"{before} -> {pieces} pieces, which are 100.00% of the training rows' tokens"]
    torch.testing.assert_close(logits(small, FEW), logits(whole, FEW), rtol=0, atol=0)
    assert not torch.equal(logits(small, models.ROWS), logits(whole, models.ROWS))
    assert small.model.get_input_embeddings().weight.shape[0] == small.model.config.vocab_size == pieces
    assert small.model.config.pad_token_id == small.encoder.pad_id  # type: ignore[attr-defined]
    assert differing(small.model) == {}, "a plain model of its config"
    save_model(small, tmp_path)
    torch.testing.assert_close(logits(load_model(tmp_path, tiny.task()), FEW), logits(small, FEW), rtol=0, atol=0)


def test_less_coverage_keeps_fewer_pieces() -> None:
    sizes = [trimmed("bert", models.ROWS, coverage=share)[1].model.config.vocab_size for share in (1.0, 0.9, 0.5)]
    assert sizes[0] > sizes[1] > sizes[2]
    line = trimmed("bert", models.ROWS, coverage=0.5)[2][0]
    assert 50 <= float(line.rpartition("which are ")[2].partition("%")[0]) < 100


@pytest.mark.parametrize(("family", "smaller"), [("gpt2", True), ("bert", True), ("roberta", False)])
def test_a_padding_with_a_high_number_keeps_no_others(family: str, smaller: bool) -> None:
    """RoBERTa alone counts its positions from there."""
    built = models.texts(family)
    own: Any = built.encoder
    last = own.vocab_size - 1
    padding = next(piece for piece, number in own._tokenizer.get_vocab().items() if number == last)
    encoder = TextEncoder(own._json, {**own._settings, "pad_token": padding})
    built.model.config.pad_token_id = encoder.pad_id
    assert encoder.pad_id == last
    done = Vocabulary(name="vocabulary").apply(built.model, PrecisionPlan(), Calibration(tiny.task(), encoder, FEW))
    assert (done.model.config.vocab_size <= last) is smaller
    assert done.encoder is not None
    assert done.model.config.pad_token_id == done.encoder.pad_id  # type: ignore[attr-defined]


def test_the_most_frequent_cover_first() -> None:
    counts = Counter({7: 50, 3: 30, 9: 15, 1: 5})
    assert covering(counts, 0.5) == {7}
    assert covering(counts, 0.51) == {7, 3}
    assert covering(counts, 0.95) == {7, 3, 9}
    assert covering(counts, 1.0) == {7, 3, 9, 1}


def test_a_model_without_text_is_refused() -> None:
    rows = tiny.pictures(4)
    built = tiny.built_net(rows, "cnn")
    with pytest.raises(KdcError, match=r"^compress\.vocabulary: the model reads no text"):
        Vocabulary(name="vocabulary").apply(
            built.model, PrecisionPlan(), Calibration(tiny.task("image-classification"), built.encoder, rows)
        )


def test_it_sees_every_row_that_a_model_learns_from() -> None:
    """Rows of a transfer set too: a recovery learns from them."""
    more = unlabelled({"text": ["an actor was poor"]}, models.ROWS)
    labelled = Data(tiny.task(), {"train": FEW}, "accuracy", 32, None, fingerprints={"train": "t"})
    lesson = replace(labelled, transfer=Transfer("key", more))
    assert Seen(labelled, labelled, 0).rows(ALL_ROWS)["text"] == FEW["text"]
    assert Seen(labelled, lesson, 0).rows(ALL_ROWS)["text"] == [*FEW["text"], *more["text"]]
    assert Seen(labelled, lesson, 0).rows(1)["text"][0] in FEW["text"]
    keys = [Seen(labelled, own, seed).key(ALL_ROWS) for own in (labelled, lesson) for seed in (0, 1)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert Seen(labelled, lesson, 0).key(9) != Seen(labelled, lesson, 1).key(9)
