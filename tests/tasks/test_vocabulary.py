"""Trimmed tokenizers: texts of kept pieces are cut as before, whatever the kind; others are spelled out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kdc.errors import KdcError
from kdc.tasks.vocabulary import trimmed
from tests import tiny

TEXTS = tiny.sentences(200)["text"]
SEEN, OTHERS = ["the film was good", "really great music"], ["the actor was awful", "a poor plot", "great fine awful"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def tokenizer(kind: str) -> Tokenizer:
    """Trained on sentences of a few words, with a post-processor that adds special pieces."""
    if kind == "wordpiece":
        return Tokenizer.from_str(tiny.encoder(tiny.sentences(200))._json)
    if kind == "bpe":
        made, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        more: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    else:
        made, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer
        made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Metaspace()
        more = {"unk_token": "<unk>"}
    made.train_from_iterator(TEXTS, trainer(vocab_size=340, special_tokens=SPECIAL, show_progress=False, **more))
    ends = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = (
        processors.RobertaProcessing(("</s>", ends[1][1]), ends[0])
        if kind == "bpe"
        else (processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends))
    )
    return made


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_texts_of_kept_pieces_are_cut_as_before(kind: str) -> None:
    whole = tokenizer(kind)
    used = {number for text in SEEN for number in whole.encode(text).ids}
    smaller, old = trimmed(whole.to_str(), used)
    cut = Tokenizer.from_str(smaller)
    assert cut.get_vocab_size() == len(old) < whole.get_vocab_size()
    assert used <= set(old)
    assert old == sorted(old)
    assert {piece: old[number] for piece, number in cut.get_vocab().items()} == {
        piece: number for piece, number in whole.get_vocab().items() if number in old
    }
    for text in SEEN:
        before, after = whole.encode(text), cut.encode(text)
        assert after.tokens == before.tokens
        assert [old[number] for number in after.ids] == before.ids
        assert cut.encode(text, text).tokens == whole.encode(text, text).tokens
    assert any(cut.encode(text).tokens != whole.encode(text).tokens for text in OTHERS)
    unknown = json.loads(smaller)["model"].get("unk_id")
    if kind == "unigram":
        assert cut.id_to_token(unknown) == "<unk>"
    if kind == "bpe":
        assert cut.decode(cut.encode(OTHERS[0]).ids) == OTHERS[0], "bytes spell any text"


def test_pieces_that_others_are_merged_from_stay() -> None:
    whole = tokenizer("bpe")
    number = whole.token_to_id("music") or whole.token_to_id("\u0120music")
    cut = Tokenizer.from_str(trimmed(whole.to_str(), {number})[0])
    piece = whole.id_to_token(number)
    assert cut.token_to_id(piece) is not None
    assert cut.encode(piece.replace("\u0120", " ")).tokens[1:-1] == [piece]


def test_another_kind_is_refused() -> None:
    with pytest.raises(KdcError, match="a tokenizer of type WordLevel cannot be trimmed; kdc trims WordPiece"):
        trimmed(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str(), {0})
