"""What a checkpoint folder brings besides weights: its tokenizer or image preprocessing, and what its model reads."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdc.errors import KdcError
from kdc.quiet import quiet
from kdc.tasks.base import Encoder, Task

TEXT_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
FROM_PADDING = frozenset(
    {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert", "mpnet", "longformer"}
)
"""Model types whose first token stands at the position after their padding's number."""


def checkpoint_encoder(folder: Path, task: Task, *, where: str, inputs: Sequence[str], max_length: int) -> Encoder:
    """The encoder for a model that takes `inputs` and at most `max_length` tokens; errors begin with `where`."""
    if task.modality == "image":
        from kdc.tasks.image import SETTINGS, ImageEncoder

        if not (folder / SETTINGS).is_file():
            raise KdcError(f"{where}{folder} has no {SETTINGS}")
        return ImageEncoder.load(folder)
    from transformers import AutoTokenizer

    from kdc.tasks.text import text_encoder

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises no narrower class
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise KdcError(f"{where}cannot load a tokenizer from {folder} ({reason})") from error
    return text_encoder(tokenizer, max_length=min(max_length, tokenizer.model_max_length), inputs=inputs)


def positions(settings: Any, default: int) -> int:
    """How many tokens a model of these settings can take; `default` where they set no limit."""
    limit = getattr(settings, "max_position_embeddings", None)
    if not limit:
        return default
    return int(limit) - (settings.pad_token_id + 1 if counts_from_padding(settings) else 0)


def counts_from_padding(settings: Any) -> bool:
    """Whether a model of these settings numbers its positions from its padding's number on: RoBERTa and its kin."""
    return getattr(settings, "model_type", None) in FROM_PADDING


def text_inputs(model: Any) -> list[str]:
    """The inputs that this model's forward takes; segment ids only where it tells segments apart."""
    import inspect

    accepted = inspect.signature(model.forward).parameters
    segments = getattr(model.config, "type_vocab_size", 0) > 1
    return [name for name in TEXT_INPUTS if name in accepted and (name != "token_type_ids" or segments)]
