"""Length buckets: every row once, reproducible, little padding, still shuffled."""

from __future__ import annotations

import numpy as np
import pytest

from kdc.data.examples import Examples
from kdc.distill.batches import Collator, LengthBuckets
from tests import tiny, toys

LENGTHS = np.random.default_rng(0).integers(3, 120, size=3217)


def batches(*, seed: int = 0, epoch: int = 0, batch_size: int = 32) -> list[list[int]]:
    sampler = LengthBuckets(LENGTHS.tolist(), batch_size, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 5000])
def test_every_row_comes_once(batch_size: int) -> None:
    found = batches(batch_size=batch_size)
    assert sorted(row for batch in found for row in batch) == list(range(len(LENGTHS)))
    assert len(found) == len(LengthBuckets(LENGTHS.tolist(), batch_size, seed=0)) == -(-len(LENGTHS) // batch_size)
    assert max(map(len, found)) <= batch_size


def test_batches_are_a_pure_function_of_seed_and_epoch() -> None:
    sampler = LengthBuckets(LENGTHS.tolist(), 32, seed=3)
    sampler.set_epoch(2)
    first = list(sampler)
    assert list(sampler) == first
    assert batches(seed=3, epoch=2) == first
    assert batches(seed=3, epoch=1) != first
    assert batches(seed=4, epoch=2) != first


def test_little_is_padded_and_lengths_come_mixed() -> None:
    def padded(found: list[list[int]]) -> float:
        return sum(LENGTHS[batch].max() * len(batch) for batch in found) / LENGTHS.sum()

    found = batches()
    shuffled = np.random.default_rng(0).permutation(len(LENGTHS))
    assert padded([part.tolist() for part in np.array_split(shuffled, len(found))]) > 1.8
    assert padded(found) < 1.06
    means = np.array([LENGTHS[batch].mean() for batch in found])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3, "not from short to long"


def test_labels_a_token_are_padded_as_their_rows_are() -> None:
    rows = tiny.sentences(5)
    encoder = tiny.encoder(rows)
    encoded = encoder.encode(rows)
    tagged = Examples({"text": rows["text"], "tags": [[i] * len(row["input_ids"]) for i, row in enumerate(encoded)]})
    collate = Collator(encoder, encoded, targets=toys.ToyTagging().targets(tagged, encoded), signals={})
    batch = collate([3, 0, 4])
    real = batch["inputs"]["attention_mask"] == 1
    assert batch["labels"].shape == real.shape
    assert not real.all()
    for row, labels, there in zip((3, 0, 4), batch["labels"], real, strict=True):
        assert (labels[there] == row).all()
        assert (labels[~there] == -100).all()
    assert "teacher" not in batch


def test_a_batch_holds_the_labels_and_signals_of_its_rows() -> None:
    rows = tiny.sentences(5)
    encoder = tiny.encoder(rows)
    said = {"logits": np.arange(10, dtype=np.float32).reshape(5, 2), "length": np.arange(5, dtype=np.float32)}
    batch = Collator(encoder, encoder.encode(rows), targets=rows["label"], signals=said)([4, 1])
    assert batch["labels"].tolist() == [0, 1]
    assert batch["teacher"]["logits"].tolist() == [[8, 9], [2, 3]]
    assert batch["teacher"]["length"].tolist() == [4, 1]
