"""How long texts will be in tokens, told from their words before there is a tokenizer."""

from __future__ import annotations

import re
from statistics import fmean

import numpy as np

from kdc.data.examples import Examples

SAMPLED_ROWS = 500
PIECES_PER_WORD = 1.15


def mean_tokens(rows: Examples, limit: int) -> float:
    """The mean length of a row, special tokens counted, cut at `limit`; of some hundred rows."""
    sample = rows.select(np.linspace(0, len(rows) - 1, min(SAMPLED_ROWS, len(rows))).astype(int))
    columns = [sample[name] for name in ("text", "text_pair") if name in sample]
    lengths = [
        sum(PIECES_PER_WORD * len(re.findall(r"\w+|[^\w\s]", text)) + 1 for text in texts) + 1
        for texts in zip(*columns, strict=True)
    ]
    return fmean(min(limit, length) for length in lengths)
