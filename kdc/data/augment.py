"""New rows out of those there are: texts with words masked, replaced or cut away, pictures moved or mirrored.

Nobody labels them: the teacher says what they are worth. What is made is a pure function of rows, settings and seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from kdc.data.examples import Examples, joined, loose_ids, unlabelled
from kdc.data.images import stack
from kdc.errors import KdcError
from kdc.registry import Component

Probability = Annotated[float, Field(ge=0, le=1)]
Place = tuple[str, int, int]
"""A word: its text, and the characters where it starts and ends there."""
Candidates = Callable[[Sequence[Place], int], Sequence[Sequence[str]]]
"""For every place so many words that might stand there, the most probable first; none where nothing is known."""

WORD = re.compile(r"(\w+(?:['’]\w+)*)")
LONGEST_NGRAM = 5
CHUNK = 512
"""New rows that are made together, so that the masked-LM head is asked for many words at once."""
FITTING = {"text": ("mask", "ngram", "replace"), "image": ("shift", "flip")}
TURNS = (("text",), ("text_pair",), ("text", "text_pair"))


class AugmentConfig(Component):
    """How many rows are tried for each row, and how they differ from it.

    Texts: each word becomes the tokenizer's mask token with probability `mask`, or else, with probability `replace`,
    one of the `candidates` words that the teacher's masked-LM head finds most probable there; then, with probability
    `ngram`, only a run of 1 to 5 words is kept. Pictures: moved by up to `shift` pixels along both axes, the rest of
    the frame black; mirrored left to right with probability `flip`.
    """

    copies: PositiveInt = 1
    mask: Probability = 0.0
    ngram: Probability = 0.0
    replace: Probability = 0.0
    candidates: PositiveInt = 15
    shift: NonNegativeInt = 0
    flip: Probability = 0.0

    @model_validator(mode="after")
    def _does_something(self) -> AugmentConfig:
        if not any(getattr(self, key) for keys in FITTING.values() for key in keys):
            raise ValueError("changes nothing; set mask, ngram or replace for texts, shift or flip for images")
        if self.mask + self.replace > 1:
            raise ValueError("a word is masked or replaced, so mask and replace are at most 1 together")
        return self

    def problems(self, modality: str) -> Iterator[str]:
        """Why this cannot be done to a `text` or an `image`, each line with its dotted key."""
        for key in FITTING["image" if modality == "text" else "text"]:
            if getattr(self, key):
                yield f"dataset.augment.{key}: is not for {modality}s; for them there is {', '.join(FITTING[modality])}"


def augment(
    rows: Examples,
    settings: AugmentConfig,
    *,
    seed: int,
    held_out: Iterable[Examples] = (),
    mask_token: str | None = None,
    candidates: Candidates | None = None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Examples:
    """`rows` as they are, then those made of them, labelled `IGNORED`: up to `copies` for each.

    A new row that is like an earlier one, or like one of the `held_out` splits, is left out. `advance` is told how many
    of how many were tried.

    Texts as Tang et al. 2019 (arXiv:1903.12136, "Data Augmentation for Distillation") do it, without their replacement
    by parts of speech: its place has that of Jiao et al. 2020 (TinyBERT, arXiv:1909.10351, Algorithm 1; p_t is
    `replace`, N_a `copies`, K `candidates`), without GloVe for words of several pieces, which stay as they are. Of
    pairs the first text is changed, then the second, then both, in turn. Pictures as He et al. 2016 (arXiv:1512.03385,
    section 4.2) do it: a crop of the picture with a black border, or of its mirror image.
    """
    if settings.mask and mask_token is None:
        raise KdcError("dataset.augment.mask: the teacher's tokenizer has no mask token", "set dataset.augment.mask=0")
    if settings.replace and candidates is None:
        raise KdcError("dataset.augment.replace: there is no masked-LM head to ask", "set dataset.augment.replace=0")
    changes = _Changes(settings, np.random.default_rng([seed, 3]), mask_token or "", candidates)
    seen = {row for examples in (rows, *held_out) for row in loose_ids(examples)}
    parts, total = [rows], len(rows) * settings.copies
    for start in range(0, total, CHUNK):
        numbers = range(start, min(start + CHUNK, total))
        old = rows.select([number // settings.copies for number in numbers])
        made = unlabelled(changes.of(old, numbers), like=rows)
        parts.append(made.select(unseen(loose_ids(made), seen)))
        advance(numbers.stop, total)
    return joined(*parts)


def unseen(ids: Sequence[str], seen: set[str]) -> list[int]:
    """Which of these rows come for the first time; from now on all of them are `seen`."""
    fresh = []
    for row, content in enumerate(ids):
        if content not in seen:
            seen.add(content)
            fresh.append(row)
    return fresh


@dataclass
class _Draft:
    """A text that is being rewritten: its gaps and words in turn, and two random numbers a word and three more."""

    pieces: list[str]
    draws: np.ndarray

    @property
    def words(self) -> int:
        return len(self.pieces) // 2

    def place(self, word: int) -> Place:
        start = sum(len(piece) for piece in self.pieces[: 2 * word + 1])
        return "".join(self.pieces), start, start + len(self.pieces[2 * word + 1])

    def text(self, ngram: float) -> str:
        """As it stands, or with probability `ngram` only a run of its words (all of them, where they are too few)."""
        whether, length, begin = self.draws[-3:]
        if self.words == 0 or whether >= ngram:
            return "".join(self.pieces)
        words = min(1 + int(length * LONGEST_NGRAM), self.words)
        first = 2 * int(begin * (self.words - words + 1)) + 1
        return "".join(self.pieces[first : first + 2 * words - 1])


@dataclass(frozen=True)
class _Changes:
    settings: AugmentConfig
    random: np.random.Generator
    mask_token: str
    candidates: Candidates | None

    def of(self, old: Examples, numbers: Sequence[int]) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """The inputs of these new rows, each made of the one of `old`."""
        if "image" in old:
            return {"image": stack([self._moved(image) for image in old["image"]])}
        texts = {column: list(old[column]) for column in old.inputs}
        for column, own in texts.items():
            turn = [i for i, number in enumerate(numbers) if len(texts) == 1 or column in TURNS[number % len(TURNS)]]
            for i, text in zip(turn, self._rewritten([own[i] for i in turn]), strict=True):
                own[i] = text
        return texts

    def _rewritten(self, texts: Sequence[str]) -> list[str]:
        """Word after word, so that each is replaced in sight of what became of those before it."""
        drafts = []
        for text in texts:
            pieces = WORD.split(text)
            drafts.append(_Draft(pieces, self.random.random(2 * (len(pieces) // 2) + 3)))
        mask, either = self.settings.mask, self.settings.mask + self.settings.replace
        for word in range(max((draft.words for draft in drafts), default=0)):
            here = [draft for draft in drafts if word < draft.words]
            asked = [draft for draft in here if mask <= draft.draws[word] < either]
            for draft in here:
                if draft.draws[word] < mask:
                    draft.pieces[2 * word + 1] = self.mask_token
            if asked and self.candidates:
                places = [draft.place(word) for draft in asked]
                for draft, found in zip(asked, self.candidates(places, self.settings.candidates), strict=True):
                    if found:
                        draft.pieces[2 * word + 1] = found[int(draft.draws[draft.words + word] * len(found))]
        return [draft.text(self.settings.ngram) for draft in drafts]

    def _moved(self, image: np.ndarray) -> np.ndarray:
        """uint8 `[height, width, channels]`, as large as before."""
        shift, (height, width) = self.settings.shift, image.shape[:2]
        if shift >= min(height, width):
            raise KdcError(
                f"dataset.augment.shift={shift} can move a picture of {height}x{width} out of its frame",
                f"take at most {min(height, width) - 1}",
            )
        top, left = self.random.integers(0, 2 * shift + 1, 2)
        mirrored = self.random.random() < self.settings.flip
        bordered = np.pad(image, ((shift, shift), (shift, shift), (0, 0)))
        cut = bordered[top : top + height, left : left + width]
        return np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)
