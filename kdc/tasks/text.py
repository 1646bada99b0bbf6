"""The encoder of text tasks: a fast tokenizer with its length limit. Reads and writes plain `transformers` files.

Serving processes load it through `tokenizers` alone: importing `transformers` would cost more than the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.tasks.base import Encoded, Encoder

CUTTING = ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


class TextEncoder(Encoder):
    """`text` (and `text_pair`) -> `input_ids`, `attention_mask` and, where the model takes them, `token_type_ids`.

    Truncates to `max_length` tokens (the longer of a pair first), pads a batch to its longest row.
    """

    def __init__(self, tokenizer_json: str, settings: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._json = tokenizer_json
        self._settings = dict(settings)
        self.max_length = int(settings["model_max_length"])
        self.inputs = tuple(settings["model_input_names"])
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length, strategy="longest_first")
        pad = _special(settings, "pad_token")
        self.pad_id = self._tokenizer.token_to_id(pad) if pad else None
        self.mask_token = _special(settings, "mask_token")

    def for_model(self, inputs: Sequence[str], *, max_length: int) -> TextEncoder:
        """The same tokenizer for a model that takes these inputs and no more tokens than this."""
        limit = min(self.max_length, max_length)
        return TextEncoder(self._json, {**self._settings, "model_input_names": list(inputs), "model_max_length": limit})

    def trimmed(self, kept: Collection[int]) -> tuple[TextEncoder, list[int]]:
        """A tokenizer with these pieces and what it cannot do without, and the old numbers of its pieces."""
        from kdc.tasks.vocabulary import trimmed

        smaller, old = trimmed(self._json, kept)
        return TextEncoder(smaller, self._settings), old

    @property
    def vocabulary(self) -> str:
        """Hash of what decides which tokens a text is cut into: not of lengths, nor of how the file was written."""
        told = json.loads(self._json)
        parts = {key: told.get(key) for key in CUTTING}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, examples: Examples) -> Encoded:
        texts: list[Any] = list(examples["text"])
        if "text_pair" in examples:
            texts = list(zip(texts, examples["text_pair"], strict=True))
        names = [name for name in self.inputs if name != "attention_mask"]
        fields = {"input_ids": "ids", "token_type_ids": "type_ids"}
        return [
            {name: getattr(row, fields[name]) for name in names} for row in self._tokenizer.encode_batch_fast(texts)
        ]

    def length(self, encoded: Mapping[str, Any]) -> int:
        return len(encoded["input_ids"])

    def pieces(self, encoded: Mapping[str, Any]) -> list[str]:
        """The tokens of one row as the vocabulary spells them."""
        return [str(self._tokenizer.id_to_token(number)) for number in encoded["input_ids"]]

    def spelled(self) -> dict[int, str]:
        """Every piece of the vocabulary by its number, without what marks the inside of a word."""
        inside = str(json.loads(self._json)["model"].get("continuing_subword_prefix") or "")
        return {number: piece.removeprefix(inside) or piece for piece, number in self._tokenizer.get_vocab().items()}

    def collate(self, encoded: Sequence[Mapping[str, Any]], *, length: int | None = None) -> Arrays:
        """`[batch, length]` int64 arrays."""
        width = length or max(self.length(row) for row in encoded)
        if self.pad_id is None and any(self.length(row) != width for row in encoded):
            raise KdcError("the tokenizer has no padding token, so texts of different length cannot share a batch")
        batch = {name: np.zeros((len(encoded), width), dtype=np.int64) for name in self.inputs}
        batch["input_ids"].fill(self.pad_id or 0)
        for i, row in enumerate(encoded):
            size = self.length(row)
            for name, values in row.items():
                batch[name][i, :size] = values
            if "attention_mask" in batch:
                batch["attention_mask"][i, :size] = 1
        return batch

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER).write_text(self._json, encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(self._settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        return cls(
            (folder / TOKENIZER).read_text(encoding="utf-8"),
            json.loads((folder / SETTINGS).read_text(encoding="utf-8")),
        )


def _special(settings: Mapping[str, Any], name: str) -> str | None:
    token = settings.get(name)
    return token["content"] if isinstance(token, Mapping) else token


def train_wordpiece(texts: Sequence[str], vocab_size: int) -> Any:
    """An uncased WordPiece tokenizer (a `transformers` one) trained on `texts`, with BERT's special tokens.

    Equal texts make equal tokenizers. The trainer numbers `##a`, `##b`, ... as its hash map happens to yield words and
    breaks ties by these numbers; given among the special tokens of a second training they have theirs beforehand.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

    def tokenizer_of(vocabulary: dict[str, int]) -> Any:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    def learned(first: list[str], size: int) -> dict[str, int]:
        tokenizer = tokenizer_of({})
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        return vocabulary

    inner_letters = sorted(piece for piece in learned(special, 0) if piece.startswith("##"))
    tokenizer = tokenizer_of(learned([*special, *inner_letters], vocab_size))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def text_encoder(tokenizer: Any, *, max_length: int, inputs: Sequence[str]) -> TextEncoder:
    """A `transformers` fast tokenizer as an encoder for a model that takes `inputs`.

    Everything goes through the files that will ship, so that training and serving cannot differ.
    """
    import tempfile

    if not getattr(tokenizer, "is_fast", False):
        raise KdcError(f"{type(tokenizer).__name__} has no fast version", "kdc ships tokenizer.json only")
    tokenizer.model_max_length = max_length
    tokenizer.model_input_names = list(inputs)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        settings = json.loads(Path(folder, SETTINGS).read_text(encoding="utf-8"))
        settings.update(model_max_length=max_length, model_input_names=list(inputs), pad_token=tokenizer.pad_token)
        return TextEncoder(Path(folder, TOKENIZER).read_text(encoding="utf-8"), settings)
