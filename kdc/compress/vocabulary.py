"""vocabulary: only the pieces of text that the training rows are cut into."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdc.compress.base import ALL_ROWS, PASSES, Done, WeightPass
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration
    from kdc.tasks.text import TextEncoder

TOKENS = [f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep", "mask", "unk")]
"""What configs call the numbers of special pieces."""
LATIN = 0x180
"""Characters below are Latin, and those that byte-level tokenizers spell bytes with."""


@PASSES.register("vocabulary")
class Vocabulary(WeightPass):
    """Drops pieces from tokenizer and embedding that the training rows do not need.

    The most frequent pieces stay that make up the share `coverage` of all tokens of the training rows (1: every piece
    that occurs), and single characters, so that a word with a piece that is gone is spelled out. Texts whose pieces are
    all kept are answered exactly as before; others are cut into other pieces.
    """

    modality: ClassVar[str | None] = "text"
    name: Literal["vocabulary"]
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def rows_to_see(self) -> int:
        return ALL_ROWS

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.models.checkpoint import counts_from_padding
        from kdc.models.shapes import keep_rows
        from kdc.tasks.text import TextEncoder

        assert rows is not None
        encoder = rows.encoder
        if not isinstance(encoder, TextEncoder):
            raise KdcError("compress.vocabulary: the model reads no text", "leave the pass out")
        counts: Counter[int] = Counter()
        for row in encoder.encode(rows.rows):
            counts.update(row["input_ids"])
        kept = covering(counts, self.coverage)
        pad = encoder.pad_id or 0
        kept |= set(range(pad + 1)) if counts_from_padding(model.config) else {pad}
        smaller, old = encoder.trimmed(kept | _characters(encoder, counts))
        own: Any = model
        embedding = next(name for name, module in model.named_modules() if module is own.get_input_embeddings())
        keep_rows(model, embedding, old)
        numbers = {number: place for place, number in enumerate(old)}
        own.config.vocab_size = len(old)
        for key in TOKENS:
            if isinstance(number := getattr(own.config, key, None), int):
                setattr(own.config, key, numbers.get(number))
        total = sum(counts.values())
        seen = sum(count for number, count in counts.items() if number in numbers)
        lines = [
            f"{encoder.vocab_size:,} -> {len(old):,} pieces, which are {seen / total:.2%} of the training rows' tokens"
        ]
        return Done(model, plan, lines, encoder=smaller)


def covering(counts: Counter[int], share: float) -> set[int]:
    """The fewest pieces that make up this share of all tokens."""
    needed, kept = share * sum(counts.values()), set()
    for number, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if needed <= 0:
            break
        kept.add(number)
        needed -= count
    return kept


def _characters(encoder: TextEncoder, counts: Counter[int]) -> set[int]:
    """Pieces of one character: all that are Latin or stand for bytes, and those that the rows' pieces are made of."""
    pieces = encoder.spelled()
    letters = {letter for number in counts for letter in pieces[number]}
    return {
        number
        for number, piece in pieces.items()
        if (len(piece) == 1 and (piece in letters or ord(piece) < LATIN)) or re.fullmatch("<0x[0-9A-F]{2}>", piece)
    }
