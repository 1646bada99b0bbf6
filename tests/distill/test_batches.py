"""Batches: every row once, reproducible, little padding, still shuffled; and how they are dealt out in parts."""

from __future__ import annotations

import numpy as np
import pytest

from kdc.data.examples import Examples
from kdc.distill.batches import Collator, LengthBuckets, Part, Parts
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


def dealt(accumulate: int, world: int, *, batch_size: int = 32) -> list[list[list[Part]]]:
    """By batch and process, the parts that this process computes of it."""
    ranks = []
    for rank in range(world):
        sampler = Parts(
            LengthBuckets(LENGTHS.tolist(), batch_size, seed=0), accumulate=accumulate, rank=rank, world=world
        )
        found = list(sampler)
        assert len(found) == len(sampler)
        ranks.append([found[start : start + accumulate] for start in range(0, len(found), accumulate)])
    return [list(batch) for batch in zip(*ranks, strict=True)]


@pytest.mark.parametrize(("accumulate", "world"), [(1, 1), (1, 2), (3, 1), (2, 3), (8, 8)])
def test_parts_make_up_their_batch(accumulate: int, world: int) -> None:
    """17 rows are left for the last batch: fewer than some deal out parts."""
    values = np.random.default_rng(0).standard_normal(len(LENGTHS))
    for batch, parts in zip(batches(), dealt(accumulate, world), strict=True):
        one_process = [part for process in parts for part in process]
        assert sorted(row for part in one_process if part.share > 0 for row in part.rows) == sorted(batch)
        assert sum(part.share for part in one_process) == pytest.approx(accumulate * world)
        mean = np.mean([part.share * values[part.rows].mean() for part in one_process])
        assert mean == pytest.approx(values[batch].mean())


def test_a_part_without_rows_goes_through_the_motions() -> None:
    parts = [process[0] for process in dealt(1, 4, batch_size=len(LENGTHS) - 2)[batches_of_two()]]
    assert [len(part.rows) for part in parts] == [1, 1, 1, 1]
    assert [part.share for part in parts] == [2, 2, 0, 0]


def batches_of_two() -> int:
    """Where the batch of the two last rows stands."""
    return [len(batch) for batch in batches(batch_size=len(LENGTHS) - 2)].index(2)


def test_parts_follow_the_epoch() -> None:
    sampler = Parts(LengthBuckets(LENGTHS.tolist(), 32, seed=0))
    sampler.set_epoch(1)
    assert [part.rows for part in sampler] == batches(epoch=1)


def test_labels_a_token_are_padded_as_their_rows_are() -> None:
    rows = tiny.sentences(5)
    encoder = tiny.encoder(rows)
    encoded = encoder.encode(rows)
    tagged = Examples({"text": rows["text"], "tags": [[i] * len(row["input_ids"]) for i, row in enumerate(encoded)]})
    batch = Collator(encoder, encoded, targets=toys.ToyTagging().targets(tagged, encoded))(Part([3, 0, 4], 1.0))
    real = batch["inputs"]["attention_mask"] == 1
    assert batch["labels"].shape == real.shape
    assert not real.all()
    for row, labels, there in zip((3, 0, 4), batch["labels"], real, strict=True):
        assert (labels[there] == row).all()
        assert (labels[~there] == -100).all()


def test_a_batch_holds_the_inputs_and_labels_of_its_rows() -> None:
    rows = tiny.sentences(5)
    encoder = tiny.encoder(rows)
    encoded, part = encoder.encode(rows), Part([4, 1], 0.5)
    batch = Collator(encoder, encoded, targets=rows["label"])(part)
    assert batch["labels"].tolist() == [0, 1]
    for row, ids in zip(part.rows, batch["inputs"]["input_ids"], strict=True):
        assert ids.tolist()[: len(encoded[row]["input_ids"])] == list(encoded[row]["input_ids"])
    assert batch["part"] is part
    assert "labels" not in Collator(encoder, encoded, targets=None)(part)
