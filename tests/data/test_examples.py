"""Ids and fingerprints of rows, and splits written and read again."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from kdc.data.examples import Examples, joined, loose_ids, unlabelled
from kdc.data.saved import read_splits, save_splits


def test_ids_follow_content_and_not_labels_or_order() -> None:
    examples = Examples({"text": ["a", "b", "a"], "label": np.array([0, 1, 1])}, ("x", "y"))
    assert examples.ids[0] == examples.ids[2] == hashlib.blake2b(b"a\0", digest_size=16).hexdigest()
    assert examples.select([1, 0]).ids == [examples.ids[1], examples.ids[0]]
    pair = Examples({"text": ["a"], "text_pair": ["b"]})
    assert pair.ids != Examples({"text": ["a"]}).ids
    assert pair.ids != Examples({"text": ["b"], "text_pair": ["a"]}).ids


def test_image_ids_follow_pixels_and_shape() -> None:
    images = np.zeros((2, 4, 2, 1), dtype=np.uint8)
    images[1, 0, 0, 0] = 1
    first, second = Examples({"image": images}).ids
    assert first != second
    assert Examples({"image": [images[0].reshape(2, 4, 1)]}).ids != [first]
    assert Examples({"image": [images[0]]}).ids == [first]


def test_fingerprint_follows_labels_names_and_order() -> None:
    text = ["a", "b"]
    base = Examples({"text": text, "label": np.array([0, 1])}, ("x", "y"))
    assert base.fingerprint == Examples({"text": text, "label": np.array([0, 1])}, ("x", "y")).fingerprint
    others = [
        Examples({"text": text, "label": np.array([1, 0])}, ("x", "y")),
        Examples({"text": text, "label": np.array([0, 1])}, ("y", "x")),
        base.select([1, 0]),
    ]
    assert base.fingerprint not in {other.fingerprint for other in others}


def test_fingerprint_follows_what_else_a_task_learns() -> None:
    one, other = (Examples({"text": ["a b"], "tags": [tags]}, ("x", "y")) for tags in ([0, 1], [1, 1]))
    assert one.ids == other.ids
    assert len({one.fingerprint, other.fingerprint, Examples({"text": ["a b"]}, ("x", "y")).fingerprint}) == 3


def test_ids_of_as_many_rows_as_sst2_are_quick() -> None:
    examples = Examples({"text": [f"a sentence of the usual length, with the number {i}" for i in range(67_349)]})
    start = time.perf_counter()
    assert len(set(examples.ids)) == 67_349
    assert time.perf_counter() - start < 2


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Examples({"text": ["a"], "label": np.array([0, 1])})


def test_saved_splits_come_back_equal(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    ragged = [generator.integers(0, 256, (2 + i, 3, 1), dtype=np.uint8) for i in range(3)]
    splits = {
        "train": Examples({"text_pair": ["é\n", "b"], "text": ["\0", "𝄞"], "label": np.array([1, 0])}, ("n", "y")),
        "validation": Examples({"image": generator.integers(0, 256, (4, 2, 3, 1), dtype=np.uint8)}),
        "test": Examples({"image": ragged, "label": np.array([2, 0, 1])}, ("a", "b", "c")),
    }
    save_splits(splits, tmp_path)
    again = read_splits(tmp_path)
    assert list(again) == list(splits)
    for split, examples in splits.items():
        assert list(again[split].columns) == list(examples.columns)
        assert again[split].labels == examples.labels
        assert again[split].fingerprint == examples.fingerprint
    assert again["train"]["text"] == ["\0", "𝄞"]
    assert again["train"]["label"].dtype == np.int64
    assert isinstance(again["validation"]["image"], np.ndarray)
    assert [image.shape for image in again["test"]["image"]] == [image.shape for image in ragged]


def test_extras_follow_their_rows_and_leave_ids_and_fingerprints_alone(tmp_path: Path) -> None:
    columns = {"text": ["a", "b", "c"], "label": np.array([0, 1, 1])}
    plain, kept = Examples(columns, ("x", "y")), Examples(columns, ("x", "y"), {"source": ["web", "book", ""]})
    assert (kept.ids, kept.fingerprint) == (plain.ids, plain.fingerprint)
    assert kept.select([2, 0]).extras == {"source": ["", "web"]}
    save_splits({"train": plain, "test": kept}, tmp_path)
    read = read_splits(tmp_path)
    assert (read["train"].extras, read["test"].extras) == ({}, {"source": ["web", "book", ""]})
    with pytest.raises(ValueError, match="differ in length"):
        Examples(columns, ("x", "y"), {"source": ["web"]})


def test_joined_rows_keep_their_order_and_stay_an_array_where_sizes_agree() -> None:
    one = Examples(
        {"image": np.zeros((2, 4, 4, 1), np.uint8), "label": np.array([0, 1])}, ("a", "b"), {"x": ["1", "2"]}
    )
    other = unlabelled({"image": np.ones((1, 4, 4, 1), np.uint8)}, like=one)
    both = joined(one, other)
    assert both["label"].tolist() == [0, 1, -100]
    assert (both["label"].dtype, both["image"].shape, both.labels, both.extras) == (
        np.int64,
        (3, 4, 4, 1),
        ("a", "b"),
        {},
    )
    assert both.ids == [*one.ids, *other.ids]
    larger = unlabelled({"image": np.ones((1, 5, 4, 1), np.uint8)}, like=one)
    assert [image.shape[0] for image in joined(one, larger)["image"]] == [4, 4, 5]


def test_rows_like_those_of_a_task_without_classes_have_no_label() -> None:
    assert list(unlabelled({"text": ["a"]}, like=Examples({"text": ["b"]})).columns) == ["text"]


def test_loose_ids_know_letters_and_digits_alone() -> None:
    alike = ["A  b's 1-2 -LRB- caf\u00e9 -rrb-", "a b 's 1 \\/ 2 ( cafe )", "ab\u2019s 12 caf\u00e9"]
    others = ["a b s 1 3 cafe", "a b s 12 caffe"]
    found = loose_ids(Examples({"text": alike + others, "text_pair": ["c", " c", "c", "c", "c"]}))
    assert len(set(found[:3])) == 1
    assert len(set(found)) == 3
    assert len(set(loose_ids(Examples({"text": ["?!", "? !", "!!"]})))) == 2, "a text without any keeps its signs"
    images = Examples({"image": np.zeros((1, 2, 2, 1), np.uint8)})
    assert loose_ids(images) == images.ids
