"""A checkpoint's masked-LM head: which words might stand in the place of one in a text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdc.data.augment import WORD, Place
from kdc.errors import KdcError
from kdc.hub import model_folder
from kdc.models.checkpoint import positions, text_inputs
from kdc.quiet import quiet

BATCH_SIZE = 64
LACKING = "name a checkpoint that has one, or set dataset.augment.replace=0"


class MaskedLM:
    """`Candidates` of words that the tokenizer leaves whole, by the head's answers where their piece is masked.

    Computes where `model` is, in its precision; a text's pieces beyond the model's length are not seen.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._longest = min(tokenizer.model_max_length, positions(model.config, tokenizer.model_max_length))
        self._inputs = text_inputs(model)
        numbers, self._words = whole_words(tokenizer)
        self._numbers = torch.tensor(numbers)

    def __call__(self, places: Sequence[Place], count: int) -> list[list[str]]:
        cut = self.tokenizer(
            [text for text, _, _ in places],
            truncation=True, max_length=self._longest, return_offsets_mapping=True,
        )  # fmt: skip
        asked = {
            i: piece
            for i, (offsets, (_, start, end)) in enumerate(zip(cut.pop("offset_mapping"), places, strict=True))
            if (piece := _only_piece(offsets, start, end)) is not None
        }
        found: list[list[str]] = [[] for _ in places]
        by_length = sorted(asked, key=lambda i: len(cut["input_ids"][i]))
        for first in range(0, len(by_length), BATCH_SIZE):
            rows = by_length[first : first + BATCH_SIZE]
            batch = self.tokenizer.pad(
                {name: [cut[name][i] for i in rows] for name in self._inputs if name in cut}, return_tensors="pt"
            )
            scores = self._scores(batch, torch.tensor([asked[i] for i in rows]))
            best = scores.topk(min(count, len(self._words)), dim=-1).indices.tolist()
            for i, words in zip(rows, best, strict=True):
                found[i] = [self._words[word] for word in words]
        return found

    @torch.no_grad()
    def _scores(self, batch: dict[str, Tensor], masked: Tensor) -> Tensor:
        """The head's logits of all whole words at the masked piece of every row: `[rows, words]`."""
        rows = torch.arange(len(masked))
        batch["input_ids"][rows, masked] = self.tokenizer.mask_token_id

        def one_piece(module: Any, args: Any, said: Any) -> Any:
            said.last_hidden_state = said.last_hidden_state[rows, masked].unsqueeze(1)
            return said

        # The head is as wide as the vocabulary: all other pieces would cost as much as the layers below it.
        hook = self.model.base_model.register_forward_hook(one_piece)
        try:
            logits = self.model(**{name: tensor.to(self.model.device) for name, tensor in batch.items()}).logits
        finally:
            hook.remove()
        return logits[:, 0, self._numbers]


def load_masked_lm(path: str, revision: str | None) -> MaskedLM:
    """The masked LM of the teacher's checkpoint (`teacher.path`, `teacher.revision`), on the GPU where there is one."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder, _ = model_folder(path, revision, "teacher.path")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, dtype="float32", output_loading_info=True, use_safetensors=True, trust_remote_code=False,
            )  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise KdcError(f"dataset.augment.replace: {folder} gives no masked-LM head ({reason})", LACKING) from error
    if missing := sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}):
        raise KdcError(f"dataset.augment.replace: {folder} has no masked-LM head ({missing[0]} is missing)", LACKING)
    if tokenizer.mask_token is None or not tokenizer.is_fast:
        lack = "mask token" if tokenizer.is_fast else "fast version"
        raise KdcError(f"dataset.augment.replace: the tokenizer in {folder} has no {lack}", LACKING)
    return MaskedLM(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def whole_words(tokenizer: Any) -> tuple[list[int], list[str]]:
    """The pieces of the vocabulary that are words by themselves, and how they are spelled.

    Those are the pieces into which alone their spelling is cut where it stands after a space.
    """
    spelled = [piece.strip() for piece in tokenizer.batch_decode([[number] for number in range(len(tokenizer))])]
    likely = [number for number, word in enumerate(spelled) if WORD.fullmatch(word)]
    cut = tokenizer([f" {spelled[number]}" for number in likely], add_special_tokens=False)["input_ids"]
    numbers = [number for number, pieces in zip(likely, cut, strict=True) if pieces == [number]]
    return numbers, [spelled[number] for number in numbers]


def _only_piece(offsets: Sequence[tuple[int, int]], start: int, end: int) -> int | None:
    """The number of the piece that these characters are; None where there are several, or one is more than they."""
    pieces = [i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
    return pieces[0] if len(pieces) == 1 and offsets[pieces[0]][1] == end else None
