"""The text encoder against `AutoTokenizer` of the folder that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.tasks.text import TextEncoder, text_encoder, train_wordpiece
from tests import tiny

TEXTS = [
    "the film was good",
    "Great MUSIC, awful plot!",
    "",
    "   ",
    "zzz qqq ☃ never seen",
    "the " * 60,
    "café naïve",
]
OTHERS = ["the plot", "", "music and film", "actor " * 50, "was", "really " * 9, "é"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return tiny.encoder(tiny.sentences(60), max_length=16)


def hugging_face(folder: Path, *texts: list[str]) -> dict[str, np.ndarray]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(*texts, truncation=True, padding=True, return_tensors="np"))


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, wanted in theirs.items():
        assert ours[name].dtype == np.int64
        np.testing.assert_array_equal(ours[name], wanted, err_msg=name)


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_equals_the_tokenizer_that_it_saves_and_itself_after_loading(
    encoder: TextEncoder, tmp_path: Path, pair: bool
) -> None:
    encoder.save(tmp_path)
    rows = Examples({"text": TEXTS, **({"text_pair": OTHERS} if pair else {})})
    theirs = hugging_face(tmp_path, TEXTS, *([OTHERS] if pair else []))
    assert theirs["input_ids"].shape[1] == 16, "the long rows must be cut"
    assert theirs["token_type_ids"].any() == pair
    for one in (encoder, TextEncoder.load(tmp_path)):
        same(one.collate(one.encode(rows)), theirs)


@pytest.mark.real
def test_equals_the_tokenizer_of_a_pretrained_encoder(minilm: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    ours = text_encoder(AutoTokenizer.from_pretrained(minilm), max_length=24, inputs=names)
    theirs = tokenizer(TEXTS, OTHERS, truncation=True, max_length=24, padding=True, return_tensors="np")
    same(ours.collate(ours.encode(Examples({"text": TEXTS, "text_pair": OTHERS}))), dict(theirs))


def test_an_empty_text_is_its_special_tokens_and_an_unknown_word_is_unk(encoder: TextEncoder) -> None:
    ids = {name: encoder._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[UNK]")}
    empty, unknown = encoder.encode(Examples({"text": ["", "☃"]}))
    assert empty["input_ids"] == [ids["[CLS]"], ids["[SEP]"]]
    assert unknown["input_ids"] == [ids["[CLS]"], ids["[UNK]"], ids["[SEP]"]]


def test_the_mask_token_in_a_text_is_one_token(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    mask = encoder._tokenizer.token_to_id("[MASK]")
    for one in (encoder, TextEncoder.load(tmp_path), encoder.for_model(["input_ids"], max_length=9)):
        (row,) = one.encode(Examples({"text": [f"the {one.mask_token}"]}))
        assert row["input_ids"][2:-1] == [mask]


def test_collate_pads_to_the_longest_row_or_as_asked(encoder: TextEncoder) -> None:
    encoded = encoder.encode(Examples({"text": ["the film", "the film was really good"]}))
    assert [encoder.length(row) for row in encoded] == [4, 7]
    assert encoder.collate(encoded)["input_ids"].shape == (2, 7)
    wide = encoder.collate(encoded, length=9)
    np.testing.assert_array_equal(wide["attention_mask"].sum(axis=1), [4, 7])
    assert (wide["input_ids"][0, 4:] == encoder.pad_id).all()


def test_only_the_inputs_that_a_model_takes_are_made(encoder: TextEncoder) -> None:
    distil = encoder.for_model(["input_ids", "attention_mask"], max_length=99)
    batch = distil.collate(distil.encode(Examples({"text": ["the film"]})))
    assert set(batch) == {"input_ids", "attention_mask"}
    bare = encoder.for_model(["input_ids"], max_length=99)
    assert set(bare.collate(bare.encode(Examples({"text": ["the film"]})))) == {"input_ids"}


def test_a_tokenizer_without_padding_token_refuses_to_pad_but_takes_rows_of_one_length() -> None:
    tokenizer: Any = train_wordpiece(["the film was good"], 100)
    tokenizer.pad_token = None
    encoder = text_encoder(tokenizer, max_length=8, inputs=["input_ids", "attention_mask"])
    encoded = encoder.encode(Examples({"text": ["the", "film", "the film"]}))
    assert encoder.collate(encoded[:2])["input_ids"].shape == (2, 3)
    with pytest.raises(KdcError, match="no padding token"):
        encoder.collate(encoded)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(KdcError, match="has no fast version"):
        text_encoder(object(), max_length=8, inputs=["input_ids"])


def test_equal_texts_make_equal_tokenizers_whatever_the_ties() -> None:
    """A killed run trains its tokenizer anew and goes on with weights that belong to the first one."""
    texts = [f"w{i} x{i % 7}y{i % 5}" for i in range(200)]
    vocabularies = [train_wordpiece(texts, 150).get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    assert len(vocabularies[0]) == 150


def test_the_vocabulary_is_what_cuts_texts_not_how_it_is_written(encoder: TextEncoder) -> None:
    told = json.loads(encoder._json)
    told |= {"truncation": {"max_length": 9, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}}
    again = TextEncoder(json.dumps(dict(reversed(told.items())), indent=1), encoder._settings)
    assert again.vocabulary == encoder.vocabulary == encoder.for_model(["input_ids"], max_length=5).vocabulary
    told["normalizer"] = None
    others = [TextEncoder(json.dumps(told), encoder._settings), tiny.encoder(tiny.sentences(9))]
    assert len({encoder.vocabulary, *(other.vocabulary for other in others)}) == 3
