"""The words that a masked-LM head would put in the place of one, against the whole model asked place by place."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdc.data.augment import AugmentConfig, augment
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.models import masked_lm
from kdc.models.masked_lm import MaskedLM, load_masked_lm, whole_words
from kdc.tasks.text import train_wordpiece
from tests import tiny

TEXTS = [*tiny.sentences(60)["text"], "A Film, really (good)!", "it's unbelievably fine", "music"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def wordpiece() -> Any:
    tokenizer = train_wordpiece(TEXTS, 90)
    tokenizer.model_max_length = 32
    return tokenizer


def byte_pairs() -> Any:
    """As RoBERTa's: a piece with a space before it is another than the one without."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=32,
    )  # fmt: skip


def bert() -> tuple[Any, Any]:
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **SIZES)
    return tiny.lively(BertForMaskedLM(config).eval()), tokenizer


def roberta() -> tuple[Any, Any]:
    from transformers import RobertaConfig, RobertaForMaskedLM

    tokenizer = byte_pairs()
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=1, **SIZES)
    return tiny.lively(RobertaForMaskedLM(config).eval()), tokenizer


def distilbert() -> tuple[Any, Any]:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=32
    )
    return tiny.lively(DistilBertForMaskedLM(config).eval()), tokenizer


def places(texts: list[str]) -> list[tuple[str, int, int]]:
    return [(text, match.start(), match.end()) for text in texts for match in masked_lm.WORD.finditer(text)]


def by_hand(model: Any, tokenizer: Any, place: tuple[str, int, int], count: int) -> list[str]:
    """One text at a time through the whole model; pieces around the word are told by cutting the text there."""
    text, start, end = place
    before, word, after = text[:start], text[start:end], text[end:]
    gap = " " if before.endswith(" ") else ""
    pieces = [
        tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in (before[: len(before) - len(gap)], gap + word, after)
    ]
    if len(pieces[1]) != 1:
        return []
    ids = [tokenizer.cls_token_id, *pieces[0], tokenizer.mask_token_id, *pieces[2], tokenizer.sep_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, 1 + len(pieces[0])]
    mark = "Ġ" if tokenizer.convert_tokens_to_ids("Ġthe") not in (None, tokenizer.unk_token_id) else ""
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words = [
        (float(logits[number]), piece.removeprefix(mark))
        for number, piece in enumerate(vocabulary)
        if piece.startswith(mark) and masked_lm.WORD.fullmatch(piece.removeprefix(mark))
    ]
    return [word for _, word in sorted(words, reverse=True)[:count]]


@pytest.mark.parametrize("make", [bert, roberta, distilbert])
def test_candidates_are_the_most_probable_words_where_one_is_masked(make: Any) -> None:
    model, tokenizer = make()
    asked = places(TEXTS[-25:])
    found = MaskedLM(model, tokenizer)(asked, 4)
    assert found == [by_hand(model, tokenizer, place, 4) for place in asked]
    assert sum(map(len, found)) > 4 * 50
    assert [] in found, "some words are several pieces"
    assert len({tuple(words) for words in found}) > 20, "they depend on the text"


def test_only_whole_words_are_candidates() -> None:
    for tokenizer in (wordpiece(), byte_pairs()):
        numbers, words = whole_words(tokenizer)
        assert {"the", "film", "good"} <= set(words)
        assert len(set(words)) == len(words) < len(tokenizer)
        assert tokenizer.mask_token_id not in numbers
        assert tokenizer([f"the {word}" for word in words], add_special_tokens=False)["input_ids"] == [
            [*tokenizer("the", add_special_tokens=False)["input_ids"], number] for number in numbers
        ]


def test_batches_change_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MaskedLM(*bert())
    asked = places(TEXTS[:30])
    together = model(asked, 3)
    monkeypatch.setattr(masked_lm, "BATCH_SIZE", 1)
    assert model(asked, 3) == together
    assert model(asked, 10_000)[0][:3] == together[0]
    assert not model.model.base_model._forward_hooks


def test_a_word_beyond_the_models_length_has_no_candidates() -> None:
    text = " ".join(["film"] * 40)
    found = MaskedLM(*bert())([(text, 0, 4), (text, 5 * 29, 5 * 29 + 4), (text, 5 * 30, 5 * 30 + 4)], 2)
    assert [len(words) for words in found] == [2, 2, 0]


def saved(folder: Path, model: Any, tokenizer: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_saved_checkpoint_gives_the_same_and_replaces_words(tmp_path: Path) -> None:
    model, tokenizer = bert()
    loaded = load_masked_lm(saved(tmp_path, model, tokenizer), None)
    asked = places(TEXTS[:10])
    assert loaded(asked, 5) == MaskedLM(model, tokenizer)(asked, 5)
    rows = Examples({"text": TEXTS[:20]})
    made = augment(rows, AugmentConfig(replace=1, candidates=2), seed=0, candidates=loaded)
    words = set(whole_words(tokenizer)[1])
    for old, new in zip(TEXTS[:20], made["text"][20:], strict=True):
        assert len(old.split()) == len(new.split())
        assert set(new.split()) - set(old.split()) <= words


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    tokenizer = wordpiece()
    classifier = saved(tmp_path / "a", tiny.bert(len(tokenizer)), tokenizer)
    with pytest.raises(
        KdcError, match=r"dataset\.augment\.replace: .*has no masked-LM head \(cls\.predictions.*replace=0"
    ) as error:
        load_masked_lm(classifier, None)
    assert "\n" not in str(error.value)
    decoder = GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(KdcError, match=r"gives no masked-LM head .*set dataset\.augment\.replace=0"):
        load_masked_lm(saved(tmp_path / "b", decoder, tokenizer), None)
    with pytest.raises(KdcError, match=r"teacher\.path: there is no folder /nowhere"):
        load_masked_lm("/nowhere", None)


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    model, tokenizer = bert()
    tokenizer.mask_token = None
    with pytest.raises(KdcError, match=r"the tokenizer in .* has no mask token; .*replace=0"):
        load_masked_lm(saved(tmp_path, model, tokenizer), None)
