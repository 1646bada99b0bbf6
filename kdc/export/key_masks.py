"""Attention masks as a model that looks both ways needs them: one flag a key, the same for every query.

`transformers` makes them as large as the attention, `[rows, 1, queries, keys]`, out of numbered positions, which a
graph repeats at every call: of a small student at 32 tokens that is about a tenth of the time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

IMPLEMENTATION = "sdpa"


@contextmanager
def masks_by_key() -> Iterator[None]:
    """Within the block, masks of padding alone are `[rows, 1, 1, keys]`; others are as they were."""
    masking: Any = sys.modules.get("transformers.masking_utils")
    if masking is None:  # no model of transformers is there
        yield
        return
    functions = masking.ALL_MASK_ATTENTION_FUNCTIONS
    whole = functions[IMPLEMENTATION]

    def by_key(*sizes: Any, **settings: Any) -> Any:
        padding, offset = settings.get("attention_mask"), settings.get("kv_offset", 0)
        both_ways = settings.get("mask_function") is masking.bidirectional_mask_function
        if sizes or padding is None or not both_ways or not isinstance(offset, int) or offset != 0:
            return whole(*sizes, **settings)
        return padding[:, None, None]

    functions[IMPLEMENTATION] = by_key
    try:
        yield
    finally:
        functions[IMPLEMENTATION] = whole
